"""Tries damaged inputs by hand: `PYTHONPATH=tests:tests/support python -m fuzz --minutes 10`, from the root.

Goes on where the last call stopped (`build/fuzz/counts.json`) and prints a table. Exit code 1: an input failed.
`--replay NAME:NUMBER` tries one input in this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

from fuzz.harness import KINDS, Runner, outcome, source
from fuzz.seeds import ROOT, make_seeds
from fuzz.targets import TARGETS

FOLDER = ROOT / "build" / "fuzz"
SLICE = 100  # inputs of a target before the next one has its turn


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append")
    parser.add_argument("--replay", metavar="NAME:NUMBER")
    arguments = parser.parse_args()
    seeds = make_seeds(FOLDER / "seeds")
    if arguments.replay:
        name, _, number = arguments.replay.rpartition(":")
        print(outcome(TARGETS[name](seeds), source(name, int(number))))
        return 0
    path = FOLDER / "counts.json"
    counts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = arguments.only or list(TARGETS)
    end_s = time.monotonic() + 60 * arguments.minutes
    runners = {name: Runner(partial(TARGETS[name], seeds), name) for name in names}
    try:
        while time.monotonic() < end_s:
            name = min(names, key=lambda name: counts.get(name, {}).get("next", 0))
            _slice(runners[name], name, counts.setdefault(name, {"next": 0, "failed": []}), end_s)
            path.write_text(json.dumps(counts, indent=1), encoding="utf-8")
    finally:
        for runner in runners.values():
            runner.close()
    return _print(counts)


def _slice(runner: Runner, name: str, count: dict[str, Any], end_s: float) -> None:
    for _ in range(SLICE):
        if time.monotonic() > end_s:
            return
        number = count["next"]
        kind, text = runner.run(number)
        count[kind] = count.get(kind, 0) + 1
        count["next"] += 1
        if kind not in KINDS[:2]:
            count["failed"].append([number, kind, text])
            print(f"{name}:{number} {kind}: {text.strip().splitlines()[-1][:150]}", file=sys.stderr, flush=True)


def _print(counts: dict[str, Any]) -> int:
    print("| target | inputs |", " | ".join(KINDS), "|\n| --- |", " --- |" * (len(KINDS) + 1), sep="")
    for name, count in sorted(counts.items()):
        print(f"| {name} | {count['next']} |", " | ".join(str(count.get(kind, 0)) for kind in KINDS), "|")
    print(f"all: {sum(count['next'] for count in counts.values())}")
    return int(any(count.get(kind, 0) for count in counts.values() for kind in KINDS[2:]))


if __name__ == "__main__":
    sys.exit(main())
