"""Rare names with and without hotwords, on recordings of people: a table and one JSON line.

    python benchmarks/hotwords.py BUNDLE --data DIR/librispeech/test.jsonl

BUNDLE is a Whisper. The list of a recording holds its own names, filled up to half with names from other recordings;
the other half is said in none. Recall is the share of the spoken names that are written; `wrong` is the word error rate
of all other words; `false` counts listed words that were written and not said. `no names` are recordings without any of
the words. `--tune` runs the recordings that the default weight was chosen with, the others are for the report.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from rich.console import Console
from rich.table import Table

import bestow_edge.runtime as be
from bestow_edge.core.hotwords import DEFAULT_WEIGHT, Hotword
from bestow_edge.core.policy import Offline
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.evaluation.scores.quality import normalizer
from bestow_edge.runtime.model import Model

RATE_HZ = 16_000
LONGEST_S, MOST_EACH = 15.0, 2  # seconds of a recording, recordings of a name
SAID_WORDS = (
    "Bannister Soames Gilchrist Cresswell Vanderpool Zora Creighton Holborn Hopkinson Edisonia Jenks Liedenbrock "
    "Ichthyosaurus Plesiosaurus Southey Keswick Haworth Branwell Tabby Toledans Rodolfo Leocadia Estafania Crasweller "
    "Kennington Neverbend Ferdinando Britannula Boolooroo Ghisizzle Coralie Rosalie Blueskins Hidalgo galvanometer "
    "electroplating hollyhocks crosstrees Elmo Brontes Calvinistic doctress sententiously lambent disquietude "
    "quadrangle intensification electrolytic philanthropies willowy"
)
UNSAID_WORDS = (
    "Agatha Alatri Antoninus Aristophanes Barberini Barocco Bentham Blackburn Boswell Brindisi Brutus Carlini Cassy "
    "Cleghorn Coligny Corelli Cosette Crawley Danton Diderot Doria Durazzo Faustina Flambard Flaubert Frascati "
    "Frosinone Galiani Garigliano Giotto Halliday Helvetius Heraclius Justinian Katherine Khazar Knollys Lucretia "
    "Lycaonia Macartney Manderson Manfred Marlowe Mazzini Morcerf Northanger Palestrina Robespierre Theodora Terracina"
)
SAID, UNSAID = SAID_WORDS.split(), UNSAID_WORDS.split()
NAMES = {name.lower() for name in SAID}
normalize = normalizer("en")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One row of the table."""

    policy: str
    beam_size: int
    words: int
    """Length of each list."""
    weight: float


def main() -> None:
    """Run all lists."""
    arguments = _arguments()
    model = be.load(arguments.bundle, threads=1)
    items = read_manifest(arguments.data)
    named = _with_names(items)[0 if arguments.tune else 1 :: 2][: arguments.named]
    unnamed = [item for item in items if not NAMES & set(_words(item)) and item.duration_s < LONGEST_S]
    sets = {
        "names": named,
        "no names": unnamed[:: max(1, len(unnamed) // max(1, arguments.unnamed))][: arguments.unnamed],
    }
    rows: list[dict[str, Any]] = []  # Any: names and numbers
    for policy in arguments.policies.split(","):
        for words in map(int, arguments.words.split(",")):
            run = Run(policy=policy, beam_size=arguments.beam, words=words, weight=arguments.weight)
            rows += [{"recordings": name, **_row(model, chosen, run)} for name, chosen in sets.items() if chosen]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    print(json.dumps({"weight": arguments.weight, "beam": arguments.beam, "rows": rows}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="manifest of LibriSpeech's test recordings")
    parser.add_argument("--words", default="0,10,100", help="lengths of lists")
    parser.add_argument("--weight", type=float, default=DEFAULT_WEIGHT)
    parser.add_argument("--policies", default="offline,default")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--named", type=int, help="recordings with names; default: all")
    parser.add_argument("--unnamed", type=int, default=16, help="recordings without names")
    parser.add_argument("--tune", action="store_true")
    return parser.parse_args()


def _words(item: Utterance) -> list[str]:
    return normalize(item.transcript or "").split()


def _with_names(items: Sequence[Utterance]) -> list[Utterance]:
    """Return recordings with names, a few of each name."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        names = [word for word in _words(item) if word in NAMES]
        if item.duration_s <= LONGEST_S and any(seen[name] < MOST_EACH for name in names):
            found.append(item)
            seen.update(names)
    return found


def _list(item: Utterance, number: int) -> list[str]:
    """Return the hotwords of a recording."""
    order = np.random.default_rng(round(1000 * item.duration_s))
    own = [name for name in SAID if name.lower() in _words(item)] if number else []
    others = [str(name) for name in order.permutation(SAID) if name not in own]
    said = (own + others)[: max(len(own), number // 2)]
    return said + [str(name) for name in order.permutation(UNSAID)[: number - len(said)]]


def _row(model: Model, items: Sequence[Utterance], run: Run) -> dict[str, Any]:
    names = hits = words = wrong = false = 0
    computing_s = 0.0
    for item in items:
        listed = _list(item, run.words)
        policy = Offline() if run.policy == "offline" else model.default_policy
        waveform, started_s = be.read_audio(item.path, RATE_HZ), time.process_time()
        hotwords = [Hotword(name, run.weight) for name in listed]
        with model.multi_session([("en-en", policy)], beam_size=run.beam_size, hotwords=hotwords) as session:
            events = [*session.feed(waveform), *session.finish()]
        computing_s += time.process_time() - started_s
        text = normalize("".join(event.text for event in events if isinstance(event, be.TextEvent))).split()
        for want, got in _aligned(_words(item), text):
            if want in NAMES:
                names, hits = names + 1, hits + (want == got)
            else:
                words, wrong = words + (want is not None), wrong + (want != got)
        heard = Counter(word for word in text if word in {name.lower() for name in listed})
        false += (heard - Counter(_words(item))).total()
    audio_s = sum(item.duration_s for item in items)
    return {
        "policy": run.policy, "words": run.words, "recall, %": round(100 * hits / names, 1) if names else None,
        "false": false, "wrong, %": round(100 * wrong / words, 2), "names": names,
        "CPU s / s": round(computing_s / audio_s, 3),
    }  # fmt: skip


def _aligned(want: list[str], got: list[str]) -> list[tuple[str | None, str | None]]:
    """Return pairs of words; None stands beside an inserted or a missing word."""
    pairs: list[tuple[str | None, str | None]] = []
    for chunk in jiwer.process_words(" ".join(want), " ".join(got)).alignments[0]:
        theirs: list[str | None] = [*want[chunk.ref_start_idx : chunk.ref_end_idx]]
        ours: list[str | None] = [*got[chunk.hyp_start_idx : chunk.hyp_end_idx]]
        longest = max(len(theirs), len(ours))
        pairs += zip(theirs + [None] * (longest - len(theirs)), ours + [None] * (longest - len(ours)), strict=True)
    return pairs


if __name__ == "__main__":
    main()
