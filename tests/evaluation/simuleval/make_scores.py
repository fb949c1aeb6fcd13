"""Writes `instances.log`, made up with a seed, and `scores.json`, what SimulEval 1.1.4's scorers give for it.

pip install simuleval==1.1.4
python tests/evaluation/simuleval/make_scores.py
"""

import json
import random
from pathlib import Path
from statistics import mean
from typing import Any

from simuleval.evaluator.instance import LogInstance
from simuleval.evaluator.scorers.latency_scorer import LATENCY_SCORERS_DICT

FOLDER = Path(__file__).parent
NAMES = ("AL", "LAAL", "AP", "DAL", "ATD", "StartOffset", "EndOffset")
WORDS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


def line(index: int, delays: list[float], costs: list[float], length: float, references: int | str) -> dict[str, Any]:
    """Return one instance; each word comes `costs` later than its audio, added up."""
    rng = random.Random(index)  # noqa: S311 - words need no secrecy
    elapsed = [delay + sum(costs[: at + 1]) for at, delay in enumerate(delays)]
    reference = references if isinstance(references, str) else " ".join(rng.choices(WORDS, k=references))
    return {
        "index": index,
        "prediction": " ".join(rng.choices(WORDS, k=len(delays))),
        "delays": delays,
        "elapsed": elapsed,
        "prediction_length": len(delays),
        "reference": reference,
        "source": ["made up"],
        "source_length": length,
    }


def streamed(index: int, rng: random.Random) -> dict[str, Any]:
    """Return an instance as a wait-k policy makes them: some words with the audio, the rest at its end."""
    length = rng.uniform(300, 12_000)
    start, step = rng.uniform(100, 4000), rng.choice([80, 160, 320, 1120, 333.3])
    words = rng.randint(1, 24)
    delays = [min(length, start + step * (at // rng.randint(1, 3))) for at in range(words)]
    return line(index, sorted(delays), [rng.uniform(0, 400) for _ in delays], length, rng.randint(1, 24))


def edge_cases() -> list[dict[str, Any]]:
    """Return instances that scorers treat in ways of their own."""
    return [
        line(0, [1000.0, 1000.0, 2000.0], [50.0, 50.0, 50.0], 2000.0, 3),
        line(1, [], [], 1500.0, 4),  # nothing was written
        line(2, [900.0], [2000.0], 1000.0, 1),  # written after the end, with computing time
        line(3, [1000.0] * 5, [10.0] * 5, 1000.0, 2),  # everything at the end
        line(4, [320.0, 640.0, 960.0], [0.0, 0.0, 0.0], 3000.0, 3),  # the writer stops early
        line(5, [300.0, 600.0, 900.0, 1200.0], [1.0, 1.0, 1.0, 1.0], 1200.0, ""),  # empty reference
        line(6, [80.0] * 12 + [4000.0], [5.0] * 13, 4000.0, "eins  zwei "),  # spaces count; far ahead of the speech
        line(7, [0.0, 0.0, 700.0], [0.0, 100.0, 0.0], 700.0, 3),  # written before any audio
        {**line(8, [500.0, 900.0], [0.0, 0.0], 1000.0, 2), "elapsed": [0, 0]},  # computing time switched off
        line(9, [500, 900], [3, 4], 1000, 2),  # integers
    ]


def main() -> None:
    """Write both files."""
    rng = random.Random(11)  # noqa: S311 - made-up data
    records = edge_cases()
    records += [streamed(index, rng) for index in range(len(records), 60)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (FOLDER / "instances.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    scores: dict[str, Any] = {}
    for name in NAMES:
        for suffix in ("", "_CA"):
            scorer = LATENCY_SCORERS_DICT[name](computation_aware=bool(suffix))
            # One by one: a scorer's own mean hides which instances it left out. ATD looks at instance 0 for the kind.
            single = [scorer({0: LogInstance(text)}) if json.loads(text)["delays"] else None for text in lines]
            known = [value for value in single if value is not None]
            scores[name + suffix] = {"mean": mean(known), "per_instance": single}
    (FOLDER / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
