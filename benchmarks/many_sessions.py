"""How many streams one machine serves: live sessions on one model, each on a thread of its own, fed as fast as it goes.

    python benchmarks/many_sessions.py [--bundle BUNDLE] [--streams 1,2,4,8,16] [--seconds 20] [--threads 1] [FILE ...]

The files (default: the English example recordings) are joined with pauses; each stream begins elsewhere in them. One
thread feeds all streams in turn, blocks of 80 ms, and waits where a queue (2 s) is full. The reference, in the same
run, is plain sessions that hear the same streams one after the other; texts must be equal, or the exit code is 1. The
best of three rounds counts. Speed is seconds of audio of all streams per second; RTF is of one stream, below 1 it is
live. Memory is the peak above that of the model after one session (Linux). Needs the extra `cpu`. Prints a table and,
last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import bestow_edge as be
from bestow_edge.runtime.audio.files import blocks

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
FILES = [AUDIO / "digits_en.wav", AUDIO / "digits_en_48k_stereo.flac"]
BLOCK = 1280
PAUSE_S = 1.5
QUEUE_S = 2.0
ROUNDS = 3
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What was measured with a number of streams."""

    plain_s: float
    """Plain sessions, one after the other, seconds."""
    live_s: float
    """Live sessions at once, seconds."""
    peak_mb: float
    """Resident memory."""
    same_text: bool


def resident_mb() -> float:
    """Return the memory this process holds now, MB; NaN where it is not known."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 / 1e6 if statm.exists() else math.nan


def text_of(events: Iterable[be.Event]) -> str:
    """Return the text of events."""
    return "".join(event.text for event in events)


def one_stream(files: Sequence[Path], rate_hz: int, seconds: float) -> Floats:
    """Return the files joined with pauses, over and over."""
    pause = np.random.default_rng(0).normal(0, 1e-4, round(PAUSE_S * rate_hz)).astype(np.float32)
    joined = np.concatenate([part for path in files for part in (be.read_audio(path, rate_hz), pause)])
    return np.resize(joined, round(seconds * rate_hz))


def plain(model: be.Model, streams: Sequence[Floats]) -> list[str]:
    """Return the texts of plain sessions, one after the other."""
    return [text_of(be.stream(model.session(source="en"), blocks(waveform, BLOCK))) for waveform in streams]


def live(model: be.Model, streams: Sequence[Floats]) -> tuple[list[str], float]:
    """Return the texts of live sessions at once, and the most memory, MB, seen while they were fed."""
    peak_mb = 0.0
    with ExitStack() as stack:
        readers = stack.enter_context(ThreadPoolExecutor(len(streams)))
        sessions = [
            stack.enter_context(be.LiveSession(model.session(source="en"), max_audio_s=QUEUE_S)) for _ in streams
        ]
        texts = readers.map(text_of, sessions)
        for turn in zip(*(blocks(waveform, BLOCK) for waveform in streams), strict=True):
            for session, block in zip(sessions, turn, strict=True):
                session.feed(block, timeout_s=math.inf)
            peak_mb = max(peak_mb, resident_mb())
        for session in sessions:
            session.finish()
        return list(texts), max(peak_mb, resident_mb())


def measure(model: be.Model, streams: Sequence[Floats]) -> Figures:
    """Run plain and live sessions in turn."""
    plain_s, live_s, peak_mb, same_text = math.inf, math.inf, 0.0, True
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        want = plain(model, streams)
        between_s = time.perf_counter()
        got, peak = live(model, streams)
        plain_s, live_s = min(plain_s, between_s - started_s), min(live_s, time.perf_counter() - between_s)
        peak_mb, same_text = max(peak_mb, peak), same_text and got == want and all(want)
    return Figures(plain_s=plain_s, live_s=live_s, peak_mb=peak_mb, same_text=same_text)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--streams", default="1,2,4,8,16", help="numbers of streams, ascending")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each stream")
    parser.add_argument("--threads", type=int, default=1, help="within one operator, of each stream")
    args = parser.parse_args()
    model = be.load(args.bundle, threads=args.threads)
    waveform = one_stream(args.files, model.sample_rate_hz, args.seconds)
    plain(model, [waveform])  # warm-up
    before_mb = resident_mb()
    figures = {
        number: measure(model, [np.roll(waveform, -index * model.sample_rate_hz) for index in range(number)])
        for number in map(int, args.streams.split(","))
    }
    report(args, figures, before_mb)
    if not all(of.same_text for of in figures.values()):
        sys.exit("a live session wrote another text than the plain one")


def report(args: argparse.Namespace, figures: dict[int, Figures], before_mb: float) -> None:
    """Print the figures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    table = Table("streams", "speed", "of plain sessions", "RTF of a stream", "extra memory, MB", "text")
    rows = []
    for number, of in figures.items():
        speed, plain_speed = number * args.seconds / of.live_s, number * args.seconds / of.plain_s
        rtf, extra_mb, same = of.live_s / args.seconds, of.peak_mb - before_mb, "same" if of.same_text else "DIFFERS"
        table.add_row(str(number), f"{speed:.1f}", f"{plain_speed:.1f}", f"{rtf:.4f}", f"{extra_mb:.1f}", same)
        rows.append(
            {"streams": number, "speed": round(speed, 1), "plain_speed": round(plain_speed, 1), "rtf": round(rtf, 4)}
            | {"extra_mb": None if math.isnan(extra_mb) else round(extra_mb, 1), "same_text": of.same_text}
        )
    Console().print(table)
    run = {"benchmark": "many_sessions", "audio_s": args.seconds, "threads": args.threads, "cores": cores}
    print(json.dumps({**run, "streams": rows, "machine": platform.machine(), "version": be.__version__}))


if __name__ == "__main__":
    main()
