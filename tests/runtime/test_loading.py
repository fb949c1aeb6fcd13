"""Loading a bundle: what is checked, in which words it fails; golden outputs."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bestow_edge.core.bundle import MANIFEST_FILE, list_files, read_manifest, write_manifest
from bestow_edge.core.errors import BundleError, BundleIntegrityError, BundleMissingError, ConfigError, SignatureError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.runtime import embedded_bundle, load
from bestow_edge.runtime import model as model_module
from bestow_edge.runtime.records.golden import verify


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rehash(bundle: Path) -> None:
    """Make the manifest agree with altered files."""
    write_manifest(replace(read_manifest(bundle), files=list_files(bundle)), bundle)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_load_takes_a_path_or_text(tiny_bundle: Path) -> None:
    assert load(str(tiny_bundle)).manifest == load(tiny_bundle).manifest
    assert load(tiny_bundle).sample_rate_hz == 16000


def test_no_bundle_means_the_embedded_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert load().directory == embedded_bundle("people")
    assert caplog.text.count("embedded model 'people'") == 1
    assert load("demo").directory == embedded_bundle("demo")
    with pytest.raises(ConfigError, match=r"embedded bundle 'other': expected one of people, demo"):
        embedded_bundle("other")


@pytest.mark.parametrize(
    ("given", "small_bytes", "used"), [(0, 10**12, 1), (0, 1, 0), (2, 10**12, 2), (1, 1, 1)], ids=str
)
def test_a_small_bundle_has_one_thread_by_default(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, given: int, small_bytes: int, used: int
) -> None:
    monkeypatch.setattr(model_module, "SMALL_BYTES", small_bytes)
    seen = []
    opened = model_module.open_graphs

    def open_graphs(*arguments: Any, threads: int, **more: Any) -> Any:
        seen.append(threads)
        return opened(*arguments, threads=1, **more)

    monkeypatch.setattr(model_module, "open_graphs", open_graphs)
    load(tiny_bundle, threads=given)
    assert seen == [used]


def test_the_demo_is_a_small_bundle() -> None:
    assert model_module.default_threads(read_manifest(embedded_bundle("demo"))) == 1


def test_missing_and_truncated_files(bundle: Path) -> None:
    with pytest.raises(BundleMissingError):
        load(bundle.parent / "nowhere")
    path = bundle / "llm_step.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleIntegrityError, match="truncated or altered"):
        load(bundle)
    path.unlink()
    with pytest.raises(BundleMissingError, match=r"llm_step\.onnx: the file is missing"):
        load(bundle)


@pytest.mark.parametrize("content", [b"", b"not a graph" * 50])
def test_corrupt_graph(bundle: Path, content: bytes) -> None:
    (bundle / "llm_step.onnx").write_bytes(content)
    rehash(bundle)
    with pytest.raises(BundleError, match=r"llm_step\.onnx: onnxruntime cannot load it"):
        load(bundle)


def test_corrupt_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_text("{}")
    rehash(bundle)
    with pytest.raises(BundleError, match="not a tokenizer file"):
        load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["graphs"][ADAPTER].update(file="llm_step.onnx"), r"llm_step\.onnx: tensors differ .*token_ids"),
        (lambda d: d["model"]["llm"].update(num_hidden_layers=3), r"llm_step\.onnx: .*cache_keys_2"),
        (lambda d: d["model"]["llm"].update(num_key_value_heads=4), r"got tensor\(float\) \['batch', 2, "),
        (
            lambda d: d["model"]["encoder"]["network"].update(conv_kernel_size=7),
            r"says conv_cache_0: float32 \(batch, 64, 6\)",
        ),
    ],
)
def test_graph_that_does_not_fit_its_manifest(
    bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(bundle, change)
    with pytest.raises(SignatureError, match=message):
        load(bundle)


def test_an_adapter_without_attention_is_refused(bundle: Path) -> None:
    """Policies, word times and segments need it, so a bundle without it never gets as far as a session."""
    path = bundle / f"{ADAPTER}.onnx"
    graph = onnx.load(path)
    graph.graph.output.remove(next(item for item in graph.graph.output if item.name == "alignment"))
    onnx.save(graph, path)
    rehash(bundle)
    with pytest.raises(SignatureError, match=r"adapter_step\.onnx: tensors differ .*: alignment; export again"):
        load(bundle)


def test_tensor_of_another_type(bundle: Path) -> None:
    path = bundle / f"{LLM}.onnx"
    graph = onnx.load(path)
    item = next(item for item in graph.graph.input if item.name == "past_tokens")
    item.type.tensor_type.elem_type = onnx.TensorProto.INT32
    cast = onnx.helper.make_node("Cast", ["past_tokens"], ["past_int64"], to=onnx.TensorProto.INT64)
    for node in graph.graph.node:
        node.input[:] = ["past_int64" if name == "past_tokens" else name for name in node.input]
    graph.graph.node.insert(0, cast)
    onnx.save(graph, path)
    rehash(bundle)
    with pytest.raises(SignatureError, match=r"got tensor\(int32\) \['batch'\] where .* says past_tokens: int64"):
        load(bundle)


def test_no_such_device(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"device 'gpu': expected cpu, "):
        load(tiny_bundle, device="gpu")


def test_no_onnxruntime(tiny_bundle: Path, tmp_path: Path) -> None:
    script = """
import sys
sys.modules["onnxruntime"] = None
import bestow_edge
from bestow_edge.core.errors import MissingExtraError
try:
    bestow_edge.load(sys.argv[1])
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "onnxruntime is not installed; run: pip install 'bestow-edge[cpu]'\n"


def test_golden_outputs_are_reached(tiny_bundle: Path) -> None:
    rows = verify(tiny_bundle)
    assert [row.graph for row in rows] == [ENCODER, ADAPTER, LLM]
    assert all(row.passed for row in rows)


@pytest.mark.parametrize("name", [ENCODER, ADAPTER, LLM])
def test_other_weights_fail_the_golden_outputs(bundle: Path, name: str) -> None:
    path = bundle / f"{name}.onnx"
    graph = onnx.load(path)
    tensor = max(graph.graph.initializer, key=lambda item: item.ByteSize())
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))
    onnx.save(graph, path)
    with pytest.raises(BundleIntegrityError, match=f"{name}.onnx"):
        verify(bundle)
    rehash(bundle)
    assert [row.passed for row in verify(bundle)] == [row != name for row in (ENCODER, ADAPTER, LLM)]


def damage_nothing_inside(path: Path) -> None:
    np.savez(path, other=np.zeros(1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"text"),
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        damage_nothing_inside,
    ],
    ids=["empty", "text", "truncated", "other arrays"],
)
def test_damaged_golden_file(bundle: Path, damage: Callable[[Path], object]) -> None:
    damage(bundle / "golden.npz")
    rehash(bundle)
    with pytest.raises(BundleIntegrityError, match=r"golden\.npz: "):
        verify(bundle)
