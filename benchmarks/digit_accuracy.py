"""Share of spoken digits that a bundle gets right on speakers it was not trained on, streaming and offline.

    python benchmarks/digit_accuracy.py --data DATA [--bundle BUNDLE] [--k 3,4,5,6] [--checkpoint CKPT]

Each corpus is tried as single recordings and as strings of 2 to 8 recordings of one speaker, transcribed and
translated. Digits right = 1 - (substitutions + deletions + insertions) / digits, by jiwer; it can be negative. Delay =
speech heard when a digit was written less the end of its recording, median over strings that are all right.
With --checkpoint the same recordings also go through the PyTorch model, offline, whole sequences without caches: the
reference that shows what export and int8 cost. Needs the extras `cpu` and `eval`, and `train` for the reference.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

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
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
}
RATE_HZ = 16_000
LEVEL = 0.08  # RMS to which the recordings of a string are brought, as in the data's own joining tool
BLOCK = RATE_HZ * 80 // 1000  # audio arrives in 80 ms blocks


class Item(NamedTuple):
    """One utterance."""

    waveform: npt.NDArray[np.float32]
    digits: list[int]
    ends_s: list[float]
    """End of each digit's recording, seconds."""


def recordings(data: Path, folders: list[str], split: str, language: str) -> dict[str, list[Item]]:
    """Return the digit recordings of each speaker."""
    speakers: dict[str, list[Item]] = defaultdict(list)
    for folder in folders:
        for line in (data / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["source_lang"] == language and entry["text"] in DIGITS[language]:
                waveform = be.read_audio(data / folder / entry["audio_filepath"], RATE_HZ)
                digit = DIGITS[language].index(entry["text"])
                speakers[entry["speaker"]].append(Item(waveform, [digit], [waveform.size / RATE_HZ]))
    return speakers


def strings(speakers: dict[str, list[Item]], count: int, seed: int) -> list[Item]:
    """Join 2 to 8 recordings of one speaker, with pauses up to 0.3 s, `count` times."""
    rng = np.random.default_rng(seed)
    names = sorted(speakers)
    joined = []
    for _ in range(count):
        items = speakers[names[rng.integers(len(names))]]
        parts = [np.zeros(int(RATE_HZ * rng.uniform(0.1, 0.4)), np.float32)]
        digits, ends_s = [], []
        for _ in range(rng.integers(2, 9)):
            item = items[rng.integers(len(items))]
            level = np.sqrt(np.mean(item.waveform**2)) + 1e-9
            parts.append(item.waveform * (LEVEL / level))
            ends_s.append(sum(part.size for part in parts) / RATE_HZ)
            parts.append(np.zeros(int(RATE_HZ * rng.uniform(0, 0.3)), np.float32))
            digits += item.digits
        joined.append(Item(np.clip(np.concatenate(parts), -1, 1).astype(np.float32), digits, ends_s))
    return joined


def hypothesis(
    model: be.Model, waveform: npt.NDArray[np.float32], pair: str, k: int | None, lookahead: int
) -> list[be.TextEvent]:
    """Return what is written for one file, streamed under wait-k or, without `k`, offline."""
    source, target = pair.split("-")
    policy = be.Offline() if k is None else be.WaitK(k, model.config.policy.l)
    session = model.session(source=source, target=target, policy=policy, lookahead=lookahead)
    blocks = (waveform[start : start + BLOCK] for start in range(0, waveform.size, BLOCK))
    return [event for event in be.stream(session, blocks) if isinstance(event, be.TextEvent)]


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


def torch_reference(checkpoint: Path, threads: int) -> Callable[[Item, str], str]:
    """Return a function that transcribes one utterance with the PyTorch model, greedily."""
    import torch
    from tokenizers import Tokenizer

    from bestow_edge.core.features import log_mel
    from bestow_edge.core.policy import Offline, visible_steps
    from bestow_edge.core.prompts import parse_pair, prompt_text
    from bestow_edge.model.checkpoint import load_checkpoint

    torch.set_num_threads(threads)
    model = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    @torch.no_grad()
    def transcribe(item: Item, pair: str) -> str:
        prompt = tokenizer.encode(prompt_text(parse_pair(pair), model.config.chat), add_special_tokens=False).ids
        mel = torch.from_numpy(log_mel(item.waveform, model.config.features))[None]
        speech = model.encode(mel, torch.tensor([mel.shape[1]]))
        tokens, num_steps = list(prompt), int(speech.lens)
        while len(tokens) < len(prompt) + num_steps + 8:
            visible = visible_steps(
                Offline(), prompt_tokens=len(prompt), text_tokens=len(tokens), source_steps=num_steps
            )
            logits = model(torch.tensor([tokens]), speech, torch.from_numpy(visible)[None]).logits
            best = int(logits[0, -1].argmax())
            if best == model.config.llm["eos_token_id"]:
                break
            tokens.append(best)
        return str(tokenizer.decode(tokens[len(prompt) :])).strip()

    return transcribe


def score(items: list[Item], texts: list[str], pair: str) -> float:
    """Return the share of digits right."""
    names = DIGITS[pair.split("-")[1]]
    references = [" ".join(names[digit] for digit in item.digits) for item in items]
    return round(1 - float(jiwer.wer(references, texts)), 4)


def evaluate(model: be.Model, items: list[Item], pair: str, k: int | None, lookahead: int) -> tuple[float, list[float]]:
    """Return the share of digits right and the delays of the digits of utterances that are all right."""
    written = [hypothesis(model, item.waveform, pair, k, lookahead) for item in items]
    texts = ["".join(event.text for event in events) for events in written]
    delays = []
    for item, events, text in zip(items, written, texts, strict=True):
        if len(events) == len(item.digits) and score([item], [text], pair) == 1.0:  # one token a digit
            delays += [event.heard_s - end_s for event, end_s in zip(events, item.ends_s, strict=True)]
    return score(items, texts, pair), delays


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with human/ and human_extra/")
    parser.add_argument("--bundle", type=Path, help="bundle directory; the embedded demo by default")
    parser.add_argument("--checkpoint", type=Path, help="also run this checkpoint in PyTorch, offline")
    parser.add_argument("--split", default="test", help="train, dev or test")
    parser.add_argument("--k", default="3,4,5,6", help="values of K for streaming, separated by commas")
    parser.add_argument("--strings", type=int, default=60, help="joined strings for each corpus and language")
    parser.add_argument("--lookahead", type=int, default=13, help="right context of the encoder, steps")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime and PyTorch")
    return parser.parse_args()


def main() -> None:
    """Run all conditions and print them."""
    args = arguments()
    model = be.load(args.bundle, threads=args.threads)
    reference = torch_reference(args.checkpoint, args.threads) if args.checkpoint else None
    modes: dict[str, int | None] = {"offline": None} | {f"K={k}": int(k) for k in args.k.split(",")}
    table = Table("corpus", "kind", "pair", "digits", *modes, *(["PyTorch offline"] if reference else []))
    rows, audio_s, wall_s = [], 0.0, 0.0
    delays: dict[str, list[float]] = defaultdict(list)
    for corpus, kind, pair, items in track(
        list(conditions(args)), description="digits", console=Console(stderr=True), transient=True
    ):
        right = {}
        for mode, k in modes.items():
            started = time.perf_counter()
            right[mode], mode_delays = evaluate(model, items, pair, k, args.lookahead)
            wall_s += time.perf_counter() - started
            audio_s += sum(item.waveform.size for item in items) / RATE_HZ
            delays[mode] += mode_delays if kind == "strings" else []
        if reference:
            right["PyTorch offline"] = score(items, [reference(item, pair) for item in items], pair)
        count = sum(len(item.digits) for item in items)
        rows.append({"corpus": corpus, "kind": kind, "pair": pair, "digits": count, **right})
        table.add_row(corpus, kind, pair, str(count), *(f"{value:.1%}" for value in right.values()))
    medians = {mode: round(float(np.median(values)), 2) for mode, values in delays.items() if values}
    Console().print(table)
    print("median delay of a digit in strings, s:", ", ".join(f"{mode} {value}" for mode, value in medians.items()))
    print(f"{audio_s:.0f} s of audio in {wall_s:.0f} s on {args.threads} thread(s), {platform.machine()}")
    summary = {"benchmark": "digit_accuracy", "split": args.split, "lookahead": args.lookahead, "rows": rows}
    print(json.dumps(summary | {"delay_s": medians, "rtf": round(wall_s / audio_s, 4), "threads": args.threads}))


if __name__ == "__main__":
    main()
