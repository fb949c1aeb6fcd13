"""Sound inputs that the targets damage: a tiny random model as checkpoint and bundle, recordings, a trace."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16000


@dataclass(frozen=True, slots=True)
class Seeds:
    """What takes long to make."""

    checkpoint: Path
    """The tests' tiny model."""
    bundle: Path
    """The same, exported."""


def make_seeds(folder: Path) -> Seeds:
    """Return the seeds in a folder; the first call makes them."""
    seeds = Seeds(folder / "checkpoint", folder / "bundle")
    if not seeds.bundle.is_dir():
        from conftest import save_random_model, tiny_config

        from bestow_edge.export.pipeline import export_bundle

        if not seeds.checkpoint.is_dir():
            save_random_model(tiny_config, seeds.checkpoint)
        export_bundle(seeds.checkpoint, seeds.bundle, precision="fp32", progress=lambda _: None)
    return seeds


def sound(seconds: float = 0.4, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """Return noise, (samples,) float32."""
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate_hz))).astype(np.float32)


def recordings() -> dict[str, bytes]:
    """Return short recordings of all containers that libsndfile writes here, by file name."""
    forms = {
        "a.wav": ("WAV", "PCM_16"), "f.wav": ("WAV", "FLOAT"), "u.wav": ("WAV", "ULAW"), "m.wav": ("WAV", "IMA_ADPCM"),
        "x.wav": ("WAVEX", "PCM_24"), "r.wav": ("RF64", "PCM_16"), "w.w64": ("W64", "PCM_16"),
        "a.flac": ("FLAC", "PCM_16"), "v.ogg": ("OGG", "VORBIS"), "o.ogg": ("OGG", "OPUS"),
        "a.mp3": ("MP3", "MPEG_LAYER_III"), "a.aiff": ("AIFF", "PCM_16"), "a.au": ("AU", "PCM_16"),
        "a.caf": ("CAF", "PCM_16"),
    }  # fmt: skip
    made = {}
    for name, (form, subtype) in forms.items():
        buffer = io.BytesIO()
        samples = np.stack([sound(), sound()[::-1]], axis=1) if name[0] in "xv" else sound()
        soundfile.write(buffer, samples, RATE_HZ, format=form, subtype=subtype)
        made[name] = buffer.getvalue()
    return made
