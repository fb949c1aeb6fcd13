"""Fixtures of modules that have a `checkpoint` of a kind of connector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bestow_edge.model.base import SpeechModel


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    """The checkpoint's bundle in float32."""
    from bestow_edge.export.pipeline import export_bundle

    directory = checkpoint.parent / "bundle"
    export_bundle(checkpoint, directory, precision="fp32", progress=lambda _: None)
    return directory


@pytest.fixture(scope="module")
def torch_model(checkpoint: Path) -> SpeechModel:
    """The checkpoint in PyTorch."""
    from bestow_edge.model.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint)
