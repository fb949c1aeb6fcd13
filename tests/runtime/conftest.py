"""Models the runtime's tests share: the tiny bundle, one that pauses often, the same weights in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bestow_edge.core.bundle import read_manifest
from bestow_edge.runtime.model import Model, load

if TYPE_CHECKING:
    from bestow_edge.model.base import SpeechModel

RemakeModel = Callable[..., Model]


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    """The tiny bundle."""
    return load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def remake_model(tiny_bundle: Path) -> RemakeModel:
    """Load the tiny bundle with other fields in its manifest."""

    def make(**fields: Any) -> Model:
        return Model(tiny_bundle, replace(read_manifest(tiny_bundle), **fields), device="cpu", threads=1)

    return make


@pytest.fixture(scope="session")
def pausing_model(remake_model: RemakeModel) -> Model:
    """The tiny bundle with a third of its tokens as end tokens: random weights then pause as often as they write."""
    return remake_model(end_ids=tuple(range(0, 300, 3)))


@pytest.fixture(scope="session")
def torch_model(tiny_checkpoint: Path) -> SpeechModel:
    """The checkpoint the tiny bundle was made of."""
    from bestow_edge.model.checkpoint import load_checkpoint

    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def remake_bidirectional(bidirectional_bundle: Path) -> RemakeModel:
    """Load the bidirectional bundle with other fields in its config or its manifest."""

    def make(config: Mapping[str, Any] | None = None, **fields: Any) -> Model:
        manifest = read_manifest(bidirectional_bundle)
        manifest = replace(manifest, model=replace(manifest.model, **(config or {})), **fields)
        return Model(bidirectional_bundle, manifest, device="cpu", threads=1)

    return make


@pytest.fixture(scope="session")
def bidirectional_model(remake_bidirectional: RemakeModel) -> Model:
    """The bidirectional bundle."""
    return remake_bidirectional()


@pytest.fixture(scope="session")
def bidirectional_torch_model(bidirectional_checkpoint: Path) -> SpeechModel:
    """The checkpoint the bidirectional bundle was made of."""
    from bestow_edge.model.checkpoint import load_checkpoint

    return load_checkpoint(bidirectional_checkpoint)


@pytest.fixture(scope="session")
def tiny_vocabulary(model: Model) -> int:
    """Number of tokens of the tiny bundle."""
    size: int = model.config.llm["vocab_size"]
    return size
