"""What guessing from the draft before saves: the same recordings with guesses, with pairs of tokens, and one by one.

    python benchmarks/drafts.py --data DATA [--bundle people] [--each 10]

DATA holds manifests `human/CORPUS/test.jsonl`. The bundle must be one that scores several tokens in a run, see
docs/streaming.md. "Pairs" runs at least two tokens without guesses: its text is that of guesses, bit by bit. "One by
one" runs as bundles do that score one token. The three follow each other for each recording, in one process and thread.
Tokens for each run are those of pairs over the runs of guesses; accepted is the share of guessed tokens that saved a
run. Prints a table and, last, one JSON line. Needs the extra `cpu`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

import bestow_edge.runtime as be
from bestow_edge.core.policy import LocalAgreement, Offline, Policy
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import INPUTS_EMBEDS, SCORED_TOKENS
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.runtime.decoders import memory_decoder
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.devices.base import Buffer
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import TextEvent

RATE_HZ = 16_000
BLOCK = 1280  # 80 ms
SETS = {
    "LibriSpeech": ("librispeech", "en-en"),
    "Common Voice, English": ("common_voice_en", "en-en"),
    "Common Voice, German": ("common_voice_de", "de-de"),
    "German to English": ("common_voice_de", "de-en"),
}
POLICIES: dict[str, Policy] = {
    "local agreement, 0.64 s": LocalAgreement(2, 8),
    "local agreement, 0.32 s": LocalAgreement(2, 4),
    "offline": Offline(),
}
WAYS = {"guesses": (True, memory_decoder.MOST_GUESSES), "pairs": (True, 0), "one by one": (False, 0)}
"""Whether guesses are checked, and how many at once."""
Numbers = Counter[str]


@contextmanager
def counted(numbers: Numbers) -> Iterator[None]:
    """Count in a `with` block the runs of the LLM that score text, guessed tokens, and CPU seconds of text graphs."""
    run: Any = CachedGraph.run
    guess: Any = memory_decoder.MemoryDecoder._guess

    def timed(graph: CachedGraph, feeds: Mapping[str, Buffer], num_tokens: int) -> Mapping[str, Buffer]:
        started_s = time.thread_time()
        out: Mapping[str, Buffer] = run(graph, feeds, num_tokens)
        numbers["text_s"] += time.thread_time() - started_s  # type: ignore[assignment]  # seconds
        of_text = SCORED_TOKENS in feeds and feeds[SCORED_TOKENS].shape[0] == num_tokens
        numbers["runs"] += INPUTS_EMBEDS in feeds and of_text
        return out

    def noted(decoder: memory_decoder.MemoryDecoder) -> tuple[int, list[int]]:
        found: tuple[int, list[int]] = guess(decoder)
        numbers["guessed"] += len(found[1])
        return found

    with patch.object(CachedGraph, "run", timed), patch.object(memory_decoder.MemoryDecoder, "_guess", noted):
        yield


def hear(model: Model, waveform: Any, pair: str, policy: Policy, way: str) -> tuple[str, Numbers]:
    """Return the text of a recording, and its runs, guesses and CPU seconds."""
    numbers = Counter[str]()
    model.checks_guesses, most = WAYS[way]
    with patch.object(memory_decoder, "MOST_GUESSES", most), counted(numbers):
        started_s = time.process_time()
        with model.multi_session([(pair, policy)]) as session:
            blocks = [waveform[start : start + BLOCK] for start in range(0, waveform.size, BLOCK)]
            events = [event for block in blocks for event in session.feed(block)] + session.finish()
        numbers["all_s"] += time.process_time() - started_s  # type: ignore[assignment]  # seconds
    text = "".join(event.text for event in events if isinstance(event, TextEvent))
    return text, numbers


def compare(model: Model, items: list[Utterance], pair: str, policy: Policy) -> dict[str, Any]:
    """Return a row of the table."""
    totals = {way: Counter[str]() for way in WAYS}
    same, as_single, audio_s = 0, 0, 0.0
    for item in items:
        waveform = be.read_audio(item.path, RATE_HZ)
        audio_s += waveform.size / RATE_HZ
        texts = {}
        for way in WAYS:
            texts[way], numbers = hear(model, waveform, pair, policy, way)
            totals[way].update(numbers)
        same += texts["guesses"] == texts["pairs"]
        as_single += texts["guesses"] == texts["one by one"]
    guesses, pairs, single = (totals[way] for way in WAYS)
    saved = pairs["runs"] - guesses["runs"]
    return {
        "recordings": len(items),
        "same_text": same,
        "text_of_one_by_one": as_single,
        "tokens_a_run": round(pairs["runs"] / guesses["runs"], 3),
        "accepted": round(saved / guesses["guessed"], 3) if guesses["guessed"] else None,
        "text_graphs_ratio": round(guesses["text_s"] / single["text_s"], 3),
        "pairs_ratio": round(pairs["text_s"] / single["text_s"], 3),
        "ratio": round(guesses["all_s"] / single["all_s"], 3),
        "text_share": round(single["text_s"] / single["all_s"], 3),
        "cpu_s_per_s": {way: round(total["all_s"] / audio_s, 4) for way, total in totals.items()},
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="people")
    parser.add_argument("--each", type=int, default=10)
    args = parser.parse_args()
    model = be.load(args.bundle, threads=1)
    if SCORED_TOKENS not in model.manifest.specs[LLM].input_names:
        raise SystemExit(f"{args.bundle}: its LLM scores one token in a run; export it again with local agreement")
    rows = {}
    table = Table(
        "", "same text", "text of one by one", "tokens a run", "accepted", "text graphs", "all", title="ratios"
    )
    for policy_name, policy in POLICIES.items():
        for name, (corpus, pair) in SETS.items():
            items = read_manifest(args.data / "human" / corpus / "test.jsonl")
            items = items[:: max(1, len(items) // args.each)][: args.each]
            row = rows[f"{policy_name}: {name}"] = compare(model, items, pair, policy)
            counts = [f"{row[key]}/{row['recordings']}" for key in ("same_text", "text_of_one_by_one")]
            shown = [row[key] for key in ("tokens_a_run", "accepted", "text_graphs_ratio", "ratio")]
            table.add_row(f"{policy_name}: {name}", *counts, *map(str, shown))
            print(policy_name, name, row, flush=True)
    Console().print(table)
    print(json.dumps({"benchmark": "drafts", "rows": rows, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
