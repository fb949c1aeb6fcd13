"""Recordings that ship with the package, to compare precisions and to measure speed on; `LICENSES.md` beside them."""

from importlib.resources import files
from pathlib import Path


def sample_manifest() -> Path:
    """Return the manifest of strings of digits, English and German."""
    return Path(str(files("bestow_edge.runtime.assets.recordings"))) / "manifest.jsonl"
