"""One session for hours: memory, time per block, and the same text as its segments one by one.

    python benchmarks/endless.py --data DATA [--bundle BUNDLE] [--hours 1] [--k 3] [--curve FILE.csv]

Human digit strings of test speakers with pauses of 0.3 to 6 s between them, looped if there are too few, go through one
session as a microphone would send them, in blocks of 80 ms. References, in the same run: the audio of each of the
session's segments in a session of its own, and each utterance in a session of its own, where its chunks begin
elsewhere. Words that agree = 1 - word error rate between two texts. Needs the extras `cpu` and `eval`. Prints a table
and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
from digit_accuracy import BLOCK, CORPORA, DIGITS, LEVEL, RATE_HZ, recordings, strings
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import bestow_edge as be

UTTERANCES = 400  # different ones, then they are looped
NOISE = 1e-4  # RMS of the noise floor, -80 dB
Floats = npt.NDArray[np.float32]


def resident_mb() -> float:
    """Return the memory this process holds now, MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def utterances(data: Path, count: int) -> list[tuple[Floats, str]]:
    """Return digit strings of the English test speakers of every corpus, with what is said."""
    joined = []
    for corpus, folders in CORPORA.items():
        speakers = recordings(data, folders, "test", "en")
        joined += strings(speakers, count // len(CORPORA), seed=len(corpus))
    order = np.random.default_rng(0).permutation(len(joined))
    return [(joined[i].waveform, " ".join(DIGITS["en"][digit] for digit in joined[i].digits)) for i in order]


def text_of(events: Sequence[be.Event]) -> str:
    """Return the text of events."""
    return "".join(event.text for event in events)


def audio(material: Sequence[tuple[Floats, str]], hours: float) -> Iterator[tuple[int, Floats]]:
    """Yield the stream: utterances, each with its number and a pause behind it; the same on every call."""
    rng = np.random.default_rng(1)
    heard, index = 0, 0
    while heard < hours * 3600 * RATE_HZ:
        pause = rng.normal(0, NOISE, int(rng.uniform(0.3, 6) * RATE_HZ))
        part = np.concatenate([material[index % len(material)][0], pause.astype(np.float32)])
        yield index % len(material), part
        heard += part.size
        index += 1


def alone(model: be.Model, waveform: Floats, k: int) -> str:
    """Return the text of some audio in a session of its own."""
    return text_of(list(be.stream(model.session(source="en", k=k), iter([waveform]))))


@dataclass
class Heard:
    """What one session made of the stream."""

    parts: list[int] = field(default_factory=list)
    """Numbers of the utterances heard."""
    starts_s: list[float] = field(default_factory=list)
    """Where each segment begins, those without text included."""
    texts: list[str] = field(default_factory=list)
    """What was written, piece by piece."""
    minutes: list[tuple[int, float, float]] = field(default_factory=list)
    """(minute, memory in MB, milliseconds a block)"""
    seconds: float = 0.0
    """Length of the audio."""


def listen(session: be.Session, stream: Iterator[tuple[int, Floats]], advance: Callable[[float], None]) -> Heard:
    """Feed the whole stream in blocks of 80 ms."""
    heard = Heard(starts_s=[0.0])
    samples, chunk_s = 0, []
    for number, part in stream:
        heard.parts.append(number)
        for start in range(0, part.size, BLOCK):
            before_s = time.perf_counter()
            note(heard, session, session.feed(part[start : start + BLOCK]))
            chunk_s.append(time.perf_counter() - before_s)
            samples += min(BLOCK, part.size - start)
            if samples // (60 * RATE_HZ) > len(heard.minutes):
                heard.minutes.append((len(heard.minutes) + 1, resident_mb(), 1e3 * float(np.mean(chunk_s))))
                chunk_s = []
        advance(samples / RATE_HZ)
    note(heard, session, session.finish())
    heard.seconds = samples / RATE_HZ
    return heard


def note(heard: Heard, session: be.Session, events: Sequence[be.Event]) -> None:
    """Keep the text, and where a segment began."""
    if events:
        heard.texts.append(text_of(events))
    if session.segment_start_s != heard.starts_s[-1]:
        heard.starts_s.append(session.segment_start_s)


def segments_alone(model: be.Model, heard: Heard, stream: Iterator[tuple[int, Floats]], k: int) -> list[str]:
    """Return the text of each segment's audio, up to where the next one began, in a session of its own."""
    texts = []
    edges = [round(start_s * RATE_HZ) for start_s in [*heard.starts_s, heard.seconds]]
    waiting, first = np.zeros(0, np.float32), 0
    parts = (part for _, part in stream)
    for start, end in pairwise(edges):
        while first + waiting.size < end:
            waiting = np.concatenate([waiting, next(parts)])
        texts.append(alone(model, waiting[start - first : end - first], k))
        waiting, first = waiting[end - first :], end
    return texts


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--curve", type=Path, help="write memory and time of every minute here")
    args = parser.parse_args()
    console = Console(stderr=True)
    model = be.load(args.bundle, threads=1)
    material = utterances(args.data, UTTERANCES)
    references = [alone(model, waveform, args.k) for waveform, _ in material]
    session = model.session(source="en", k=args.k)
    started_s = time.perf_counter()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("listening", total=args.hours * 3600)
        heard = listen(session, audio(material, args.hours), lambda done_s: progress.update(task, completed=done_s))
    rtf = (time.perf_counter() - started_s) / heard.seconds
    texts = {
        "segments": segments_alone(model, heard, audio(material, args.hours), args.k),
        "utterances": [references[number] for number in heard.parts],
        "said": [material[number][1] for number in heard.parts],
    }
    report(args, heard, {name: " ".join(" ".join(parts).split()) for name, parts in texts.items()}, rtf)


def report(args: argparse.Namespace, heard: Heard, others: Mapping[str, str], rtf: float) -> None:
    """Print the figures.

    Args:
        args: the command's.
        heard: what the session did.
        others: text of the segments alone, of the utterances alone, and what was said.
        rtf: of the session.
    """
    text = " ".join("".join(heard.texts).split())
    memory = [mb for minute, mb, _ in heard.minutes if minute >= 5] or [0.0]
    figures = {
        "hours": round(heard.seconds / 3600, 3),
        "words": len(text.split()),
        "segments": len(heard.starts_s),
        "agree_with_segments_alone": round(1 - jiwer.wer(others["segments"], text), 4),
        "agree_with_utterances_alone": round(1 - jiwer.wer(others["utterances"], text), 4),
        "right": round(1 - jiwer.wer(others["said"], text), 4),
        "right_utterances_alone": round(1 - jiwer.wer(others["said"], others["utterances"]), 4),
        "memory_growth_mb": round(max(memory) - memory[0], 2),
        "memory_mb": round(memory[-1], 1),
        "block_ms_first_ten_minutes": round(mean_ms(heard.minutes[1:11]), 3),
        "block_ms_last_ten_minutes": round(mean_ms(heard.minutes[-10:]), 3),
        "rtf": round(rtf, 4),
    }
    table = Table(title="One session", show_header=False)
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
    if args.curve:
        rows = ["minute,memory_mb,block_ms", *(f"{minute},{mb:.1f},{ms:.3f}" for minute, mb, ms in heard.minutes)]
        args.curve.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(json.dumps({"benchmark": "endless", "k": args.k, **figures, "machine": platform.machine(), "level": LEVEL}))


def mean_ms(minutes: Sequence[tuple[int, float, float]]) -> float:
    """Return the mean time of a block over some minutes."""
    return float(np.mean([ms for _, _, ms in minutes] or [0.0]))


if __name__ == "__main__":
    main()
