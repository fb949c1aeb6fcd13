"""Share of spoken digits that a bundle gets right on speakers it was not trained on, streaming and offline.

    python benchmarks/digit_accuracy.py --data DATA [--bundle BUNDLE] [--split test] [--k 3,4,5,6] [--strings 60]

Each corpus is tried as single recordings and as strings of 2 to 8 recordings of one speaker, transcribed and
translated. Digits right = 1 - (substitutions + deletions + insertions) / digits, by jiwer; it can be negative.
Needs the extras `cpu` and `eval`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bestow_edge as be

CORPORA = {
    "fsdd": ["human/fsdd"],
    "hd_digits": ["human/hd_digits"],
    "speech_commands": ["human/speech_commands", "human_extra/speech_commands"],
}
DIGITS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "de": "null eins zwei drei vier fünf sechs sieben acht neun".split(),
}
RATE_HZ = 16_000
LEVEL = 0.08  # RMS to which the recordings of a string are brought, as in the data's own joining tool
BLOCK = RATE_HZ * 80 // 1000  # audio arrives in 80 ms blocks
Item = tuple[npt.NDArray[np.float32], list[int]]  # waveform, digits said


def recordings(data: Path, folders: list[str], split: str, language: str) -> dict[str, list[Item]]:
    """Return the digit recordings of each speaker."""
    speakers: dict[str, list[Item]] = defaultdict(list)
    for folder in folders:
        for line in (data / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["source_lang"] == language and entry["text"] in DIGITS[language]:
                waveform = be.read_audio(data / folder / entry["audio_filepath"], RATE_HZ)
                speakers[entry["speaker"]].append((waveform, [DIGITS[language].index(entry["text"])]))
    return speakers


def strings(speakers: dict[str, list[Item]], count: int, seed: int) -> list[Item]:
    """Join 2 to 8 recordings of one speaker, with pauses up to 0.3 s, `count` times."""
    rng = np.random.default_rng(seed)
    names = sorted(speakers)
    joined = []
    for _ in range(count):
        items = speakers[names[rng.integers(len(names))]]
        parts = [np.zeros(int(RATE_HZ * rng.uniform(0.1, 0.4)), np.float32)]
        digits = []
        for _ in range(rng.integers(2, 9)):
            waveform, said = items[rng.integers(len(items))]
            level = np.sqrt(np.mean(waveform**2)) + 1e-9
            parts += [waveform * (LEVEL / level), np.zeros(int(RATE_HZ * rng.uniform(0, 0.3)), np.float32)]
            digits += said
        joined.append((np.clip(np.concatenate(parts), -1, 1).astype(np.float32), digits))
    return joined


def hypothesis(model: be.Model, waveform: npt.NDArray[np.float32], pair: str, k: int | None, lookahead: int) -> str:
    """Return the text of one file, streamed under wait-k or, without `k`, offline."""
    source, target = pair.split("-")
    policy = be.Offline() if k is None else be.WaitK(k, model.config.policy.l)
    session = model.session(source=source, target=target, policy=policy, lookahead=lookahead)
    blocks = (waveform[start : start + BLOCK] for start in range(0, waveform.size, BLOCK))
    return "".join(event.text for event in be.stream(session, blocks))


def conditions(args: argparse.Namespace) -> Iterator[tuple[str, str, str, list[Item]]]:
    """Yield corpus, kind, pair and recordings."""
    for corpus, folders in CORPORA.items():
        for language in ("en", "de"):
            speakers = recordings(args.data, folders, args.split, language)
            if not speakers:
                continue
            singles = [item for items in speakers.values() for item in items]
            joined = strings(speakers, args.strings, seed=len(corpus))
            for target in ("en", "de"):
                yield corpus, "single", f"{language}-{target}", singles
                yield corpus, "strings", f"{language}-{target}", joined


def main() -> None:
    """Run all conditions and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with human/ and human_extra/")
    parser.add_argument("--bundle", type=Path, help="bundle directory; the embedded demo by default")
    parser.add_argument("--split", default="test", help="train, dev or test")
    parser.add_argument("--k", default="3,4,5,6", help="values of K for streaming, separated by commas")
    parser.add_argument("--strings", type=int, default=60, help="joined strings for each corpus and language")
    parser.add_argument("--lookahead", type=int, default=13, help="right context of the encoder, steps")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime")
    args = parser.parse_args()
    model = be.load(args.bundle, threads=args.threads)
    modes: list[int | None] = [None, *map(int, args.k.split(","))]
    console, table = Console(), Table("corpus", "kind", "pair", "digits", *(f"K={k}" if k else "offline" for k in modes))
    rows, audio_s, started = [], 0.0, time.perf_counter()
    for corpus, kind, pair, items in track(list(conditions(args)), "digits", console=Console(stderr=True), transient=True):
        names = DIGITS[pair.split("-")[1]]
        references = [" ".join(names[digit] for digit in digits) for _, digits in items]
        right = {}
        for k in modes:
            texts = [hypothesis(model, waveform, pair, k, args.lookahead) for waveform, _ in items]
            right["offline" if k is None else f"k{k}"] = round(1 - jiwer.wer(references, texts), 4)
            audio_s += sum(waveform.size for waveform, _ in items) / RATE_HZ
        count = sum(len(digits) for _, digits in items)
        rows.append({"corpus": corpus, "kind": kind, "pair": pair, "digits": count, **right})
        table.add_row(corpus, kind, pair, str(count), *(f"{value:.1%}" for value in right.values()))
    wall_s = time.perf_counter() - started
    console.print(table)
    console.print(f"{audio_s:.0f} s of audio in {wall_s:.0f} s on {args.threads} thread(s), {platform.machine()}")
    summary = {"benchmark": "digit_accuracy", "split": args.split, "lookahead": args.lookahead, "rows": rows}
    print(json.dumps(summary | {"rtf": round(wall_s / audio_s, 4), "threads": args.threads}))


if __name__ == "__main__":
    main()
