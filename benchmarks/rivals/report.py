"""What every rival's process shares: its arguments, the timing of steps, and how it tells its figures."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WARM_UP = 3  # runs that do not count


def parser(description: str | None, *names: str) -> argparse.ArgumentParser:
    """Return a parser for directories or files of some names, and the options of all rivals."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        made.add_argument(name, type=Path)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--runs", type=int, default=30, help="timed runs of a step")
    return made


def times_ms(step: Callable[[], object], runs: int) -> list[float]:
    """Return how long each of some runs of a step took, ms, after a few to warm up."""
    for _ in range(min(WARM_UP, runs)):
        step()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        step()
        times.append((time.perf_counter() - started) * 1000)
    return times


def median(values: Sequence[float]) -> float:
    """Return the median of at least one value."""
    return sorted(values)[len(values) // 2]


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile."""
    return {"p50_ms": median(times), "p95_ms": sorted(times)[int(len(times) * 0.95)]}


def tell(**figures: Any) -> None:  # Any: whatever JSON holds
    """Print the figures as the line that the benchmark reads."""
    print(json.dumps(figures))


def need(package: str, install: str) -> None:
    """Tell that a package is missing and end, if it is."""
    if importlib.util.find_spec(package) is None:
        tell(skipped=f"not installed: pip install {install}")
        sys.exit(0)
