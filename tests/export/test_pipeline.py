"""Checkpoint to bundle: contents, int8, refusals, and nothing left behind after a failure.

Tracing takes long, so all but `tiny_bundle` take their fp32 graphs from it; everything behind tracing runs as it is.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bestow_edge.core.bundle import BundleManifest, ParityRow, read_manifest
from bestow_edge.core.errors import AgreementError, CheckpointError, ConfigError, ExportError, ParityError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.parity import check
from bestow_edge.export.pipeline import Check, Trace, export_bundle
from bestow_edge.runtime import load
from bestow_edge.runtime.records.golden import verify


def quiet(_: str) -> None:
    """Report no progress."""


@pytest.fixture
def traced(tiny_bundle: Path) -> Trace:
    """Take the graphs of `tiny_bundle` in place of tracing the same model again."""

    def known(_module: object, spec: GraphSpec, _inputs: object) -> ir.Model:
        return ir.load(tiny_bundle / f"{spec.name}.onnx")

    return known


def edit_config(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document["model"])
    path.write_text(json.dumps(document), encoding="utf-8")


def total(manifest: BundleManifest) -> int:
    return sum(entry.size for entry in manifest.files if entry.path.endswith(".onnx"))


def test_what_a_bundle_holds(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert sorted(path.name for path in tiny_bundle.iterdir()) == [
        "adapter_step.onnx", "bundle.json", "encoder_chunk.onnx", "golden.npz", "llm_step.onnx", "tokenizer.json"
    ]  # fmt: skip
    assert set(manifest.prompts) == {"en-en", "en-de", "de-de", "de-en"}
    assert len(set(manifest.prompts.values())) == 4
    assert manifest.end_ids == (2,)
    assert manifest.max_text_tokens == 200
    assert {"torch", "onnx", "bestow-edge"} <= set(manifest.tools)
    rows = {(row.graph, row.precision) for row in manifest.parity}
    assert rows == {(ENCODER, "fp32"), (ADAPTER, "fp32"), (LLM, "fp32")}
    assert all(row.error <= row.tolerance for row in manifest.parity)
    assert all(row.passed and row.error < 1e-6 for row in verify(tiny_bundle))


def test_int8_is_smaller_and_says_what_it_costs(
    tiny_checkpoint: Path, traced: Trace, tiny_bundle: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    result = export_bundle(
        tiny_checkpoint, tmp_path / "int8", check=Check(least=0.5), progress=told.append, trace=traced
    )
    manifest = read_manifest(tmp_path / "int8")
    assert result.manifest == manifest
    assert "encoder_chunk: int8" in told
    assert total(manifest) < 0.65 * total(read_manifest(tiny_bundle))  # the graph itself is a third of so small a model
    assert {entry.precision for entry in manifest.graphs.values()} == {"int8"}
    for name in (ENCODER, ADAPTER, LLM):
        errors = {row.precision: row.error for row in manifest.parity if row.graph == name}
        assert 0 < errors["fp32"] < 1e-4 < errors["int8"] < 0.25
    assert all(row.passed and row.precision == "int8" for row in verify(tmp_path / "int8"))
    report = manifest.quantization
    assert report is not None
    assert [row.graph for row in report.rows] == [ENCODER, ADAPTER, LLM]
    assert report.utterances == 16
    assert report.decisions > 300
    assert 0.5 < report.agreement <= min(row.agreement for row in report.rows) + 0.05
    assert all(row.bits_per_weight > 8 for row in report.rows)  # the graph itself counts
    with load(tmp_path / "int8").session(source="en", target="de", k=1) as session:
        session.feed(np.zeros(16000, dtype=np.float32))
        session.finish()
        assert session.num_tokens > 8


def test_a_precision_for_each_part(tiny_checkpoint: Path, traced: Trace, tmp_path: Path) -> None:
    wanted = "encoder=fp32,connector=int4,llm=fp16"
    export_bundle(
        tiny_checkpoint, tmp_path / "out", precision=wanted, check=Check(least=0), progress=quiet, trace=traced
    )
    manifest = read_manifest(tmp_path / "out")
    assert {name: entry.precision for name, entry in manifest.graphs.items()} == {
        ENCODER: "fp32",
        ADAPTER: "int4",
        LLM: "fp16",
    }
    assert manifest.quantization is not None
    assert manifest.quantization.decisions == 0  # nothing compared
    assert all(row.passed for row in verify(tmp_path / "out"))


def test_other_decisions_than_fp32_leave_no_bundle(tiny_checkpoint: Path, traced: Trace, tmp_path: Path) -> None:
    """A random model has many close decisions, and int8 changes some of them."""
    message = r"\d\d\.\d% of \d+ decisions are those of the fp32 model, expected 100%; \w+ alone leaves \d+\.\d%\. Give"
    with pytest.raises(AgreementError, match=message):
        export_bundle(tiny_checkpoint, tmp_path / "out", check=Check(least=1.0), progress=quiet, trace=traced)
    assert not list(tmp_path.iterdir())


def test_no_recording_in_the_models_languages(tiny_checkpoint: Path, traced: Trace, tmp_path: Path) -> None:
    line = {"audio_filepath": "a.wav", "duration": 1, "text": "un", "source_lang": "fr", "target_lang": "fr"}
    manifest = tmp_path / "fr.jsonl"
    manifest.write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(ExportError, match=r"no recording in the model's languages; give .* speech in de, en"):
        export_bundle(tiny_checkpoint, tmp_path / "out", check=Check(manifest), progress=quiet, trace=traced)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [ENCODER, ADAPTER, LLM])
def test_one_wrong_weight_leaves_no_bundle(tiny_checkpoint: Path, traced: Trace, tmp_path: Path, name: str) -> None:
    def wrong(module: Any, spec: GraphSpec, inputs: Any) -> ir.Model:
        graph = traced(module, spec, inputs)
        if spec.name == name:
            tensor = max(graph.graph.initializers.values(), key=lambda item: item.const_value.nbytes)
            tensor.const_value = ir.tensor(tensor.const_value.numpy() * np.float32(1.02), name=tensor.name)
        return graph

    message = rf"{name} \(fp32, .*\) differs from PyTorch by .*no bundle was written"
    with pytest.raises(ParityError, match=message):
        export_bundle(tiny_checkpoint, tmp_path / "out", precision="fp32", progress=quiet, trace=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [1.1e-4, float("inf"), float("nan")])
def test_parity_is_refused_beyond_its_tolerance(error: float) -> None:
    row = ParityRow(graph=LLM, case="batch=1", precision="fp32", error=1e-4, tolerance=1e-4)
    check([row])
    with pytest.raises(ParityError, match=r"llm_step \(fp32, batch=1\) differs from PyTorch by .*, allowed are 1e-04"):
        check([row, replace(row, error=error)])


def test_an_existing_target_is_replaced_only_by_force(tiny_checkpoint: Path, traced: Trace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="out exists; choose another path or allow it to be replaced"):
        export_bundle(tiny_checkpoint, out, precision="fp32", progress=quiet, trace=traced)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    export_bundle(tiny_checkpoint, out, precision="fp32", force=True, progress=quiet, trace=traced)
    assert not (out / "mine.txt").exists()
    assert read_manifest(out).graphs
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        export_bundle(tmp_path / "nowhere", tmp_path / "out", progress=quiet)


def test_a_bidirectional_bundle(bidirectional_bundle: Path) -> None:
    manifest = read_manifest(bidirectional_bundle)
    assert sorted(path.name for path in bidirectional_bundle.iterdir()) == [
        "adapter_step.onnx", "bundle.json", "encoder_window.onnx", "golden.npz", "llm_step.onnx", "tokenizer.json"
    ]  # fmt: skip
    encoder = manifest.model.encoder
    assert encoder == WindowedConfig(network=encoder.network, block=4, right_context=13, window=375)
    assert manifest.model.features.normalize == "per_feature"
    recorded = json.loads((bidirectional_bundle / "bundle.json").read_text(encoding="utf-8"))["model"]
    sizes = {"kind": "windowed", "block": 4, "right_context": 13, "window": 375, "padding": 0, "taps": []}
    assert recorded["encoder"] == sizes | {"network": encoder.network}
    assert [row.case for row in manifest.parity if row.graph == WINDOW] == [
        "batch=1 frames=40",
        "batch=1 frames=3000",
        "batch=8 frames=24",
    ]
    assert all(row.passed and row.error < 1e-6 for row in verify(bidirectional_bundle))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda model: model["llm"].update(eos_token_id=None), r"llm\.eos_token_id is missing")],
)
def test_a_model_that_cannot_end_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "ck"))
    edit_config(checkpoint, change)
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out", progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["ck"]
