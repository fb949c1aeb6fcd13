"""The machine and the library versions of an evaluation. Standard library only."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SCORERS = ("jiwer", "sacrebleu", "whisper-normalizer")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "numpy")


def describe_machine() -> dict[str, str | int]:
    """Return the processor's name, the cores this process may use, and the system."""
    return {"processor": _processor(), "cores": usable_cores(), "system": platform.platform()}


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that run models and score texts."""
    return {"python": platform.python_version()} | installed(("bestow-edge", *RUNTIMES, *SCORERS))


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution that is installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
        if names:
            return f"{names[0]} ({platform.machine()})"
    return platform.processor() or platform.machine()
