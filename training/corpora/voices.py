"""Speech made by espeak-ng: its voices, and one text spoken by one of them. Knows the program, not files or manifests.

It is formant synthesis, far from a person: what is trained on it is to be mixed with real speech and judged on it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from bestow_edge.errors import AudioError, ConfigError

PROGRAM = "espeak-ng"
RATE_HZ = 16_000
HEADER_BYTES = 44  # of the WAV that it writes to a pipe; the sizes in it are not those of the samples
SPEECH_RMS = 0.08  # full scale = 1, as recordings that are joined
BASES = {
    "en": ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "fr": ("fr-fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "pt": ("pt", "pt-br"),
}
"""espeak-ng's accents of each language."""
TRAIN = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3",
    "adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "Henrique", "Hugo", "john",
    "Lee", "linda", "marcelo", "Mario", "max", "Michael", "michel", "miguel", "Mike", "pablo", "paul", "pedro",
    "quincy", "rob", "robert", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
"""Variants of a voice that stay intelligible: whispers, croaks and robots are left out."""
TEST = ("Nguyen", "anika", "iven", "iven2", "klatt4", "sandro", "steph2")
"""Variants that nothing is trained on; examples/accented_digits.py has none of them either."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One way to speak."""

    name: str
    """Accent and variant, as espeak-ng wants them: `en-us+f2`."""
    words_per_minute: int
    pitch: int
    """0 to 99."""
    gap: int
    """Pause between words beside the usual one, 10 ms."""


def variants_of(voices: str) -> tuple[str, ...]:
    """Return the variants that `train`, `test` or a list of names (`m1,f2`) stands for.

    Raises:
        ConfigError: a name is none of a variant.
    """
    if voices in {"train", "test"}:
        return TRAIN if voices == "train" else TEST
    names = tuple(voices.split(","))
    if unknown := [name for name in names if name not in TRAIN + TEST]:
        raise ConfigError(f"voices: {unknown[0]!r} is none; expected train, test or some of {', '.join(TRAIN + TEST)}")
    return names


def draw_voice(rng: np.random.Generator, language: str, variants: Sequence[str]) -> Voice:
    """Draw accent, variant, pace and pitch.

    Args:
        rng: decides everything.
        language: one of `BASES`.
        variants: what to draw from.
    """
    bases = BASES[language]
    name = f"{bases[int(rng.integers(len(bases)))]}+{variants[int(rng.integers(len(variants)))]}"
    pace = int(np.clip(rng.normal(165, 25), 115, 230))
    return Voice(name, pace, int(rng.integers(20, 81)), int(rng.choice([0, 0, 0, 1, 2])))


def check_program() -> None:
    """Check that espeak-ng is there.

    Raises:
        ConfigError: it is not.
    """
    if shutil.which(PROGRAM) is None:
        raise ConfigError(f"{PROGRAM} is not on the path; run: apt install {PROGRAM} (macOS: brew install {PROGRAM})")


def speak(text: str, voice: Voice, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Speak a text, with silence of random length before and behind.

    Args:
        text: what to say.
        voice: how.
        rng: decides the silence.

    Returns:
        (samples,) at `RATE_HZ`, of the loudness that joined recordings have.

    Raises:
        AudioError: espeak-ng fails or says nothing.
    """
    options = ["-s", voice.words_per_minute, "-p", voice.pitch, "-g", voice.gap, "--stdout", "--", text]
    done = subprocess.run([PROGRAM, "-v", voice.name, *map(str, options)], capture_output=True, check=False)  # noqa: S603 - a list, no shell
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise AudioError(f"{PROGRAM} -v {voice.name}: {said}")
    wav = done.stdout
    spoken = np.frombuffer(wav[HEADER_BYTES : len(wav) // 2 * 2], "<i2").astype(np.float32) / 32_768
    if not spoken.any():
        raise AudioError(f"{PROGRAM} -v {voice.name}: said nothing for {text!r:.60}")
    resampled = soxr.resample(spoken, int.from_bytes(wav[24:28], "little"), RATE_HZ)
    levelled = resampled * (SPEECH_RMS / np.sqrt(np.mean(resampled**2, dtype=np.float64)))
    before, behind = (int(RATE_HZ * rng.uniform(*limits)) for limits in ((0.05, 0.35), (0.1, 0.4)))
    samples: npt.NDArray[np.float32] = np.pad(np.clip(levelled, -1, 1), (before, behind)).astype(np.float32)
    return samples
