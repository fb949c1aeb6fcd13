"""Connectors `interleave` and `gated_layers` with fewer bits and for GPUs: parity holds, the gate counts decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from interleaved import interleaved_config

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import AgreementError
from bestow_edge.core.specs.gated_layers import GatedLayersConfig
from bestow_edge.core.tensors import Target
from bestow_edge.export.pipeline import Check, export_bundle
from bestow_edge.runtime.records.golden import verify

pytestmark = pytest.mark.slow


def gated(config: ModelConfig) -> ModelConfig:
    """Return a config with cross-attention in both layers of the LLM."""
    return replace(config, connector=GatedLayersConfig(every=1, num_heads=2, ffn_factor=3))


@pytest.fixture(scope="module", params=[interleaved_config, gated], ids=["interleave", "gated_layers"])
def checkpoint(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_config: Callable[..., ModelConfig],
    save_random: Callable[..., Path],
) -> Path:
    directory = tmp_path_factory.mktemp("kinds") / "checkpoint"
    return save_random(lambda vocab: request.param(model_config(vocab)), directory)


def test_fewer_bits(checkpoint: Path, tmp_path: Path) -> None:
    """Most decisions of a random model stay; the gate refuses a bundle whose decisions differ more than allowed."""
    bundle, precision = tmp_path / "bundle", "int8"
    result = export_bundle(checkpoint, bundle, precision=precision, check=Check(least=0.3), progress=lambda _: None)
    report = result.manifest.quantization
    assert report is not None
    assert report.decisions > 20
    assert report.agreement >= 0.3
    assert all(row.passed for row in verify(bundle))
    if report.agreement < 1:
        with pytest.raises(AgreementError, match="are those of the fp32 model, expected 100%"):
            export_bundle(
                checkpoint, tmp_path / "other", precision=precision, check=Check(least=1.0), progress=lambda _: None
            )
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_graphs_for_gpus(checkpoint: Path, tmp_path: Path, target: Target) -> None:
    """Half-precision graphs hold parity in onnxruntime on the CPU; they use operators that the target has."""
    result = export_bundle(
        checkpoint, tmp_path / "bundle", target=target, check=Check(least=0.3), progress=lambda _: None
    )
    assert {entry.precision for entry in result.manifest.graphs.values()} == {"fp16"}
    assert all(row.passed for row in verify(tmp_path / "bundle"))
