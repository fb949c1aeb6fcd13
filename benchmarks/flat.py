"""Sessions that have no end of their own: a policy that never writes, a model that never ends, speech without a pause.

    python benchmarks/flat.py [--minutes 10] [--bundle BUNDLE]

Each hears blocks of 80 ms. Prints, for each, the memory after the first quarter and at the end, and the processor time
of a block in the second and in the last quarter: both must not grow. Needs the extra `cpu`; Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from endless import resident_mb

import bestow_edge as be
from bestow_edge.core.embedded import embedded_bundle
from bestow_edge.core.policy import View, WaitK

ROOT = Path(__file__).resolve().parents[1]
BLOCK_S = 0.08
PAUSE_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Never(WaitK):
    """Writes nothing."""

    def accepts(self, view: View) -> bool:  # noqa: ARG002 - the base's
        """Refuse every token."""
        return False


def endless_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle whose end of text is a token that the model does not write."""
    copy = folder / "bundle"
    shutil.copytree(bundle, copy)
    path = copy / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["end_ids"] = [manifest["model"]["llm"]["vocab_size"] - 1]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def speech(model: be.Model, pause_s: float) -> npt.NDArray[np.float32]:
    """Return spoken digits without the silence around them, (samples,), and a pause behind them."""
    waveform = be.read_audio(ROOT / "examples" / "audio" / "digits_en.wav", model.sample_rate_hz)
    loud = np.flatnonzero(np.abs(waveform) > 0.02)
    pause = np.random.default_rng(0).normal(0, 1e-4, round(pause_s * model.sample_rate_hz)).astype(np.float32)
    return np.concatenate([waveform[loud[0] : loud[-1]], pause])


def listen(session: be.Session, rate_hz: int, part: npt.NDArray[np.float32], minutes: float) -> dict[str, float]:
    """Hear a part again and again; return figures."""
    block, count = round(BLOCK_S * rate_hz), round(minutes * 60 / BLOCK_S)
    looped = np.concatenate([part, part[:block]])
    memory, computing_ms, words = [], [], 0
    for number in range(count):
        start = number * block % part.size
        began_s = time.process_time()
        events = session.feed(looped[start : start + block])
        computing_ms.append(1e3 * (time.process_time() - began_s))
        memory.append(resident_mb())
        words += sum(len(event.text.split()) for event in events)
    session.finish()
    quarter = count // 4
    return {
        "minutes": minutes,
        "words": words,
        "memory_mb_quarter": round(memory[quarter], 1),
        "memory_mb_end": round(memory[-1], 1),
        "block_ms_second_quarter": round(float(np.mean(computing_ms[quarter : 2 * quarter])), 3),
        "block_ms_last_quarter": round(float(np.mean(computing_ms[-quarter:])), 3),
        "longest_block_ms": round(max(computing_ms), 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=embedded_bundle("demo"))
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = be.load(arguments.bundle, threads=1)
        unending = be.load(endless_bundle(arguments.bundle, Path(folder)), threads=1)
        runs = {
            "a policy that never writes": (model.session(source="en", policy=Never(k=3, l=4)), PAUSE_S),
            "a model that never ends": (unending.session(source="en", k=3), PAUSE_S),
            "speech without a pause": (model.session(source="en", k=3), 0.0),
        }
        for name, (session, pause_s) in runs.items():
            figures = listen(session, model.sample_rate_hz, speech(model, pause_s), arguments.minutes)
            print(json.dumps({"benchmark": "flat", "run": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
