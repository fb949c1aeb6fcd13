"""One stream for hours through a session: memory and time of each tenth, whatever the kind of connector.

    python benchmarks/endless_turns.py BUNDLE --data MANIFEST [--hours 1] [--pair en-en]

The recordings of MANIFEST follow each other without a pause and are repeated. They come in blocks of 0.96 s, as fast as
the session takes them. Prints, for each tenth of the stream, the memory of the process, computing time over audio and
tokens written, and, last, one JSON line. Flat means: the last tenth is as the second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bestow_edge as be
from bestow_edge.core.prompts import parse_pair
from bestow_edge.core.utterances import read_manifest

RATE_HZ = 16_000
BLOCK = 15_360  # samples, 0.96 s
PARTS = 10
Floats = npt.NDArray[np.float32]


def resident_mb() -> float:
    """Return the memory this process holds now, MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def blocks(manifest: Path) -> Iterator[Floats]:
    """Yield blocks of the recordings, without end."""
    waveforms = [be.read_audio(item.path, RATE_HZ) for item in read_manifest(manifest)]
    left = np.zeros(0, dtype=np.float32)
    for waveform in cycle(waveforms):
        left = np.concatenate([left, waveform])
        while len(left) >= BLOCK:
            yield left[:BLOCK]
            left = left[BLOCK:]


def main() -> None:
    """Run the stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="manifest of recordings")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--pair", default="en-en")
    options = parser.parse_args()
    model = be.load(options.bundle, threads=1)
    pair, audio = parse_pair(options.pair), blocks(options.data)
    session = model.session(source=pair.source, target=pair.target)
    count, rows = round(options.hours * 3600 * RATE_HZ / BLOCK / PARTS), []
    for part in range(PARTS):
        began_s, letters = time.process_time(), 0
        for _ in range(count):
            letters += sum(len(event.text) for event in session.feed(next(audio)))
        spent_s = time.process_time() - began_s
        row = {"end_s": round((part + 1) * count * BLOCK / RATE_HZ), "mb": resident_mb()}
        rows.append(row | {"computing_over_audio": spent_s / (count * BLOCK / RATE_HZ), "letters": letters})
        print(" ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    session.finish()
    print(json.dumps({"bundle": str(options.bundle), "hours": options.hours, "parts": rows}))


if __name__ == "__main__":
    main()
