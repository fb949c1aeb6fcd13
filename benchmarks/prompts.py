"""What more prompts on one stream cost: one, two and three texts in one session, and three sessions for comparison.

    python benchmarks/prompts.py [--bundle BUNDLE] [--repeat 20] [--threads 1] [--rounds 5] [FILE ...]

The files (default: the English example recordings) are joined, repeated and streamed in blocks of 80 ms;
runs of the variants alternate, and the best round counts. Needs the extra `cpu`. Prints a table and, last, one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import bestow_edge as be

Prompts = Sequence[tuple[str, be.Policy]]
AUDIO = Path(__file__).parents[1] / "examples" / "audio"
FILES = [AUDIO / "digits_en.wav", AUDIO / "digits_en_48k_stereo.flac"]
PROMPTS: Prompts = [("en-en", be.WaitK(3, 4)), ("en-de", be.WaitK(3, 4)), ("en-de", be.WaitK(6, 4))]
BLOCK = 1280


def run(
    model: be.Model, waveform: npt.NDArray[np.float32], sessions: Sequence[Sequence[tuple[str, be.Policy]]]
) -> float:
    """Return the seconds that sessions with these prompts take for the same audio."""
    opened = [model.multi_session(prompts) for prompts in sessions]
    started_s = time.perf_counter()
    for start in range(0, waveform.size, BLOCK):
        for session in opened:
            session.feed(waveform[start : start + BLOCK])
    for session in opened:
        session.finish()
    return time.perf_counter() - started_s


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = be.load(args.bundle, threads=args.threads)
    waveform = np.tile(np.concatenate([be.read_audio(path, model.sample_rate_hz) for path in args.files]), args.repeat)
    variants: dict[str, list[Prompts]] = {
        "one prompt": [PROMPTS[:1]],
        "two prompts": [PROMPTS[:2]],
        "three prompts": [PROMPTS],
        "three sessions": [[prompt] for prompt in PROMPTS],
    }
    best_s = dict.fromkeys(variants, float("inf"))
    for _ in range(args.rounds):
        for name, sessions in variants.items():
            best_s[name] = min(best_s[name], run(model, waveform, sessions))
    audio_s = waveform.size / model.sample_rate_hz
    table = Table("", "RTF", "of one prompt")
    for name, seconds in best_s.items():
        table.add_row(name, f"{seconds / audio_s:.4f}", f"{seconds / best_s['one prompt']:.2f}")
    Console().print(table)
    ratios = {name: round(seconds / best_s["one prompt"], 3) for name, seconds in best_s.items()}
    print(
        json.dumps({"benchmark": "prompts", "audio_s": round(audio_s), "ratio": ratios, "machine": platform.machine()})
    )


if __name__ == "__main__":
    main()
