"""Text of bundles for GPUs beside that of a float32 bundle, in onnxruntime on the CPU: what their precision changes.

    python benchmarks/gpu_text.py FP32_BUNDLE BUNDLE ... --manifests MANIFEST ... [--each 20] [--gate 0]

The bundles are those of one checkpoint, exported with `--precision fp32` and with `--target rtx`, `tensorrt` or `cuda`.
Each hears every recording whole, offline, and writes its transcript. A row says how many texts are those of float32 to
the letter, the WER of normalised words with its 95 % interval, the edit distance of the tokens from those of float32,
and, of the first `--gate` recordings, how many next tokens are float32's after float32's own text: the gate of export.
onnxruntime's CPU has few kernels in float16. It computes in float32 and rounds results to float16 in between. So this
measures rounded weights and tensors, not the sums of a GPU. Recordings are spread over each manifest. Needs the extras
`cpu`, `eval` and `export`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
from rich.console import Console
from rich.table import Table

import bestow_edge.runtime as be
from bestow_edge.core.policy import Offline
from bestow_edge.core.prompts import Pair
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.evaluation.report.hardware import describe_machine
from bestow_edge.evaluation.scores.quality import score_texts
from bestow_edge.export.agreement import Choice, Recording, agreement, answer
from bestow_edge.runtime.stream.events import Decision

TABLE_WIDTH = 130  # where no terminal says how wide it is
Row = dict[str, Any]  # Any: names and numbers


@dataclass(frozen=True, slots=True)
class Written:
    """What a bundle wrote about one recording."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """What float32 wrote about the recordings of a set."""

    written: Sequence[Written]
    answers: Sequence[Sequence[Choice]]
    """Its decisions under the default policy, for the gate."""


def write(model: be.Model, item: Utterance) -> Written:
    """Return the transcript of a recording."""
    tokens: list[int] = []

    def keep(decision: Decision) -> None:
        if decision.verdict == "write":
            tokens.append(decision.token_id)

    with model.multi_session([(f"{item.source_lang}-{item.source_lang}", Offline())]) as session:
        session.on_decision = keep
        events = session.feed(be.read_audio(item.path, model.sample_rate_hz)) + session.finish()
    return Written("".join(event.text for event in events if isinstance(event, be.TextEvent)), tuple(tokens))


def recordings(model: be.Model, items: Sequence[Utterance]) -> list[Recording]:
    """Return recordings as the gate takes them."""
    pairs = [Pair(item.source_lang, item.source_lang) for item in items]
    waveforms = [be.read_audio(item.path, model.sample_rate_hz) for item in items]
    return [Recording(item.path, *rest) for item, *rest in zip(items, waveforms, pairs, strict=True)]


def changed(one: Written, other: Written) -> int:
    """Return the edit distance of the tokens of two texts."""
    if not one.tokens or not other.tokens:
        return len(one.tokens) + len(other.tokens)
    found = jiwer.process_words(*(" ".join(map(str, text.tokens)) for text in (one, other)))
    return found.substitutions + found.insertions + found.deletions


def compare(bundle: Path, sets: dict[str, list[Utterance]], references: dict[str, Reference], gate: int) -> list[Row]:
    """Return a bundle's row for each set. The first bundle fills `references`."""
    model, rows = be.load(bundle, threads=1), []
    precision = "/".join(entry.precision for entry in model.manifest.graphs.values())
    for name, items in sets.items():
        heard, written = recordings(model, items[:gate]), [write(model, item) for item in items]
        known = references.setdefault(name, Reference(written, [answer(model, one) for one in heard]))
        language = items[0].source_lang
        wanted, texts = [item.texts[language] for item in items], [one.text for one in written]
        wer = score_texts(wanted, texts, language=language).corpus["wer_normalized"]
        pairs = list(zip(known.written, written, strict=True))
        row: Row = {"bundle": bundle.name, "target": model.manifest.target, "precision": precision, "set": name}
        row |= {"recordings": len(items), "equal": sum(one.text == other.text for one, other in pairs)}
        row |= {"wer": round(wer.value, 2), "low": round(wer.low, 2), "high": round(wer.high, 2)}
        row |= {"tokens": sum(len(one.tokens) for one in known.written)}
        row |= {"changed": sum(changed(one, other) for one, other in pairs)}
        if heard:
            row |= {"decisions": sum(map(len, known.answers)), "agreement": agreement(model, heard, known.answers)}
        rows.append(row)
    return rows


def show(rows: Sequence[Row]) -> None:
    """Print a line for each bundle and set."""
    table = Table("bundle", "precision", "set", title="Text in onnxruntime on the CPU, offline")
    for column in ("equal texts", "WER, %", "tokens changed", "next tokens of float32"):
        table.add_column(column, justify="right")
    for row in rows:
        gate = f"{row['agreement']:.1%} of {row['decisions']}" if "agreement" in row else "-"
        wer = f"{row['wer']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
        equal, tokens = f"{row['equal']} of {row['recordings']}", f"{row['changed']} of {row['tokens']}"
        table.add_row(row["bundle"], row["precision"], row["set"], equal, wer, tokens, gate)
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(table)


def main() -> None:
    """Compare the bundles, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="the first is the float32 one")
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, metavar="MANIFEST")
    parser.add_argument("--each", type=int, default=20, help="most recordings of a manifest; default: %(default)s")
    parser.add_argument("--gate", type=int, default=0, help="recordings of a manifest for it; default: %(default)s")
    args = parser.parse_args()
    sets = {}
    for path in args.manifests:
        items = read_manifest(path)
        sets[path.parent.name] = items[:: max(1, len(items) // args.each)][: args.each]
    references: dict[str, Reference] = {}
    rows = [row for bundle in args.bundles for row in compare(bundle, sets, references, args.gate)]
    show(rows)
    print(json.dumps({"benchmark": "gpu_text", "machine": describe_machine(), "rows": rows}))


if __name__ == "__main__":
    main()
