"""One session for hours: memory, time per chunk, and the same text as the utterances one by one.

    python benchmarks/endless.py --data DATA [--bundle BUNDLE] [--hours 1] [--k 3] [--curve FILE.csv]

Human digit strings of test speakers with pauses of 0.3 to 6 s between them, looped if there are too few, go through one
session as a microphone would send them, in blocks of 80 ms. The reference is the same utterances in sessions of their
own, in the same run. Words that agree = 1 - word error rate between the two texts. Needs the extras `cpu` and `eval`.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
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


def text_of(events: list[be.Event]) -> str:
    """Return the text of events."""
    return "".join(event.text for event in events)


def alone(model: be.Model, waveform: Floats, k: int) -> str:
    """Return the text of one utterance in a session of its own."""
    session = model.session(source="en", k=k)
    return text_of(list(be.stream(session, iter([waveform]))))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--segment-pause", type=float, help="seconds; default: the bundle's")
    parser.add_argument("--segment-tokens", type=int, help="default: the bundle's")
    parser.add_argument("--curve", type=Path, help="write memory and time of every minute here")
    args = parser.parse_args()
    console = Console(stderr=True)
    model = be.load(args.bundle, threads=1)
    material = utterances(args.data, UTTERANCES)
    references = [alone(model, waveform, args.k) for waveform, _ in material]
    rng = np.random.default_rng(1)
    session = model.session(
        source="en", k=args.k, segment_pause_s=args.segment_pause, segment_tokens=args.segment_tokens
    )
    texts: list[str] = []
    want, said, minutes, chunk_s = [], [], [], []
    written, heard, index = "", 0, 0
    started_s = time.perf_counter()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("listening", total=args.hours * 3600)
        while heard < args.hours * 3600 * RATE_HZ:
            waveform, spoken = material[index % len(material)]
            want.append(references[index % len(material)])
            said.append(spoken)
            pause = rng.normal(0, NOISE, int(rng.uniform(0.3, 6) * RATE_HZ))
            audio = np.concatenate([waveform, pause.astype(np.float32)])
            for start in range(0, audio.size, BLOCK):
                before_s = time.perf_counter()
                written += text_of(session.feed(audio[start : start + BLOCK]))
                chunk_s.append(time.perf_counter() - before_s)
                heard += min(BLOCK, audio.size - start)
                if heard // (60 * RATE_HZ) >= len(minutes) + 1:
                    minutes.append((len(minutes) + 1, resident_mb(), 1e3 * float(np.mean(chunk_s))))
                    texts.append(written)
                    written, chunk_s = "", []
            index += 1
            progress.update(task, completed=heard / RATE_HZ)
    texts.append(written + text_of(session.finish()))
    wall_s = time.perf_counter() - started_s
    report(args, minutes, " ".join("".join(texts).split()), " ".join(want), " ".join(said), wall_s, heard / RATE_HZ)


def report(
    args: argparse.Namespace,
    minutes: list[tuple[int, float, float]],
    text: str,
    want: str,
    said: str,
    wall_s: float,
    audio_s: float,
) -> None:
    """Print the figures."""
    memory = [mb for minute, mb, _ in minutes if minute >= 5] or [0.0]
    first = float(np.mean([ms for minute, _, ms in minutes if 1 < minute <= 11] or [0.0]))
    last = float(np.mean([ms for _, _, ms in minutes[-10:]] or [0.0]))
    agree = 1 - jiwer.wer(want, text)
    figures = {
        "hours": round(audio_s / 3600, 3),
        "words": len(text.split()),
        "agree_with_alone": round(agree, 4),
        "right": round(1 - jiwer.wer(said, text), 4),
        "right_alone": round(1 - jiwer.wer(said, want), 4),
        "memory_growth_mb": round(max(memory) - memory[0], 2),
        "memory_mb": round(memory[-1], 1),
        "block_ms_first_ten_minutes": round(first, 3),
        "block_ms_last_ten_minutes": round(last, 3),
        "rtf": round(wall_s / audio_s, 4),
    }
    table = Table(title="One session", show_header=False)
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
    if args.curve:
        rows = ["minute,memory_mb,block_ms", *(f"{minute},{mb:.1f},{ms:.3f}" for minute, mb, ms in minutes)]
        args.curve.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(json.dumps({"benchmark": "endless", "k": args.k, **figures, "machine": platform.machine(), "level": LEVEL}))


if __name__ == "__main__":
    main()
