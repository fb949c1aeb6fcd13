"""Spoken digits joined to utterances, and the embedded model that hears them."""

import subprocess
import sys
from pathlib import Path

import pytest

from bestow_edge.runtime import Model, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of five utterances in each language."""
    out = tmp_path_factory.mktemp("strings") / "digits"
    manifests = sorted((ROOT / "tests" / "audio").glob("*/manifest.jsonl"))
    script = ROOT / "benchmarks" / "joined_recordings.py"
    subprocess.run([sys.executable, script, out, *manifests, "--count", "5", "--most", "4"], check=True, timeout=120)
    return out / "manifest.jsonl"


@pytest.fixture(scope="session")
def digits() -> Model:
    """The embedded model."""
    return load("demo", threads=1)
