"""What a session writes while nobody speaks: silence, noise, hum, music, household sounds.

    python benchmarks/no_speech.py --data DATA [--bundle BUNDLE] [--minutes 60] [--k 3]

Each sound goes through a session of its own. The music is chords and melodies of a plucked string, made here and not by
the generator that training uses; the household sounds are DATA/human/noise, of which training mixes cuts, looped. The
reference, in the same run, is the same model on digit strings of test speakers: words a minute where there is speech.
Needs the extra `cpu`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from digit_accuracy import CORPORA, RATE_HZ, recordings, strings
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import bestow_edge as be

BLOCK_S = 10.0
BEAT_S = 0.5
MUSIC_RMS = 0.1
Floats = npt.NDArray[np.float32]


def silence(count: int, _rng: np.random.Generator) -> Floats:
    """Return digital zeros."""
    return np.zeros(count, dtype=np.float32)


def white(level: float, count: int, rng: np.random.Generator) -> Floats:
    """Return white noise of an RMS of `level`."""
    return (level * rng.standard_normal(count)).astype(np.float32)


def hum(count: int, _rng: np.random.Generator) -> Floats:
    """Return mains hum of 50 Hz with a harmonic."""
    seconds = np.arange(count) / RATE_HZ
    return (0.05 * np.sin(2 * np.pi * 50 * seconds) + 0.02 * np.sin(2 * np.pi * 150 * seconds)).astype(np.float32)


def music(count: int, rng: np.random.Generator) -> Floats:
    """Return a melody with chords under it, two notes a second."""
    out = np.zeros(count)
    beat = round(BEAT_S * RATE_HZ)
    seconds = np.arange(beat) / RATE_HZ
    for start in range(0, count - beat + 1, beat):
        root_hz = 220 * 2 ** (rng.integers(0, 24) / 12)
        for harmonic in range(1, 6):
            out[start : start + beat] += (
                np.sin(2 * np.pi * root_hz * harmonic * seconds) * np.exp(-seconds * 3) / harmonic
            )
        for interval in (4, 7):
            third_hz = root_hz * 2 ** (interval / 12)
            out[start : start + beat] += 0.5 * np.sin(2 * np.pi * third_hz * seconds) * np.exp(-seconds * 2)
    return (MUSIC_RMS * out / np.sqrt(np.mean(out**2))).astype(np.float32)


def looped(recording: Floats, minutes: float) -> Iterator[Floats]:
    """Yield a recording over and over."""
    for _ in range(max(1, round(minutes * 60 * RATE_HZ / recording.size))):
        yield recording


def made(kind: str, minutes: float) -> Iterator[Floats]:
    """Yield blocks of a made-up sound."""
    rng = np.random.default_rng(0)
    makers = {
        "silence": silence,
        "white noise, -40 dB": lambda count, rng: white(0.01, count, rng),
        "white noise, -20 dB": lambda count, rng: white(0.1, count, rng),
        "hum": hum,
        "music": music,
    }
    for _ in range(max(1, round(minutes * 60 / BLOCK_S))):
        yield makers[kind](round(BLOCK_S * RATE_HZ), rng)


MADE = ("silence", "white noise, -40 dB", "white noise, -20 dB", "hum", "music")


def words_a_minute(session: be.Session, blocks: Iterator[Floats]) -> tuple[int, float, str]:
    """Return the words written, how many a minute, and the first of them."""
    words: list[str] = []
    samples = 0
    for block in blocks:
        samples += block.size
        words += [event.text.strip() for event in session.feed(block) if event.text]
    words += [event.text.strip() for event in session.finish() if event.text]
    return len(words), len(words) * 60 * RATE_HZ / samples, " ".join(words[:8])


def speech(data: Path) -> Iterator[Floats]:
    """Yield digit strings of the English test speakers."""
    for folders in CORPORA.values():
        for item in strings(recordings(data, folders, "test", "en"), 20, seed=1):
            yield item.waveform
            yield np.zeros(2 * RATE_HZ, dtype=np.float32)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--k", type=int, default=3)
    args = parser.parse_args()
    model = be.load(args.bundle, threads=1)
    sources = {kind: made(kind, args.minutes) for kind in MADE}
    for path in sorted((args.data / "human" / "noise").glob("*.flac")):
        sources[path.stem.replace("_", " ")] = looped(be.read_audio(path, RATE_HZ), args.minutes)
    sources["speech (reference)"] = speech(args.data)
    console = Console(stderr=True)
    table = Table(
        "sound", "words", "a minute", "the first", title=f"Written while nobody speaks, {args.minutes:g} min each"
    )
    rows = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for kind, blocks in progress.track(sources.items(), description="listening"):
            words, rate, first = words_a_minute(model.session(source="en", k=args.k), blocks)
            rows.append({"sound": kind, "words": words, "words_a_minute": round(rate, 2)})
            table.add_row(kind, str(words), f"{rate:.2f}", first)
    Console().print(table)
    record = {"benchmark": "no_speech", "k": args.k, "minutes": args.minutes, "rows": rows}
    print(json.dumps(record | {"machine": platform.machine()}))


if __name__ == "__main__":
    main()
