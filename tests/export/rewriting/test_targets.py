"""Graphs for GPUs: checked by ONNX itself, by shape inference, for contrib operators, and numerically against torch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto

from bestow_edge.core.bundle import BundleManifest, read_manifest
from bestow_edge.core.errors import ConfigError, ExportError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.core.tensors import GraphSpec, in_float16
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.export.graphs.cross_adapter import AdapterStep
from bestow_edge.export.graphs.parakeet_encoder import BidirectionalEncoder
from bestow_edge.export.parity import compare, expected_outputs
from bestow_edge.export.precision import parse_precisions
from bestow_edge.export.rewriting.float16 import LARGEST, to_half
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.rewriting.quantization import quantize
from bestow_edge.export.rewriting.tensorrt_rules import check_ready
from bestow_edge.export.tracing import sample_inputs, save_graph, trace_graph
from bestow_edge.runtime import TextEvent, load
from bestow_edge.runtime.records.golden import verify

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
NAMES = [ENCODER, ADAPTER, LLM]


@pytest.fixture(scope="module")
def manifest(tensorrt_bundle: Path) -> BundleManifest:
    return read_manifest(tensorrt_bundle)


def inferred(path: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Return a graph and the type of every value in it, checked and inferred by ONNX."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = model.graph
    known = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output, *graph.value_info)}
    return model, known | {item.name: item.data_type for item in graph.initializer}


@pytest.mark.parametrize("name", NAMES)
def test_onnx_accepts_the_graph_and_infers_one_float_type_for_each_operator(tensorrt_bundle: Path, name: str) -> None:
    model, types = inferred(tensorrt_bundle / f"{name}.onnx")
    for node in model.graph.node:
        assert all(output in types for output in node.output), f"{node.name}: no type inferred"
        if node.op_type != "Cast":
            floats = {types[value] for value in (*node.input, *node.output) if value and types[value] in FLOATS}
            assert len(floats) <= 1, f"{node.op_type} {node.name} mixes float16 and float32"


@pytest.mark.parametrize("name", NAMES)
def test_only_standard_operators_that_every_tensorrt_10_reads(tensorrt_bundle: Path, name: str) -> None:
    model = onnx.load(tensorrt_bundle / f"{name}.onnx")
    assert {item.domain: item.version for item in model.opset_import} == {"": 20}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    check_ready(ir.load(tensorrt_bundle / f"{name}.onnx"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_float16_and_what_is_not(tensorrt_bundle: Path, manifest: BundleManifest, name: str) -> None:
    model, types = inferred(tensorrt_bundle / f"{name}.onnx")
    by_operator = Counter(
        (node.op_type, types[node.output[0]]) for node in model.graph.node if types[node.output[0]] in FLOATS
    )
    assert not by_operator["Softmax", TensorProto.FLOAT16]
    assert not by_operator["Cos", TensorProto.FLOAT16]
    assert not by_operator["MatMul", TensorProto.FLOAT]
    assert by_operator["MatMul", TensorProto.FLOAT16] > 10
    large = [item for item in model.graph.initializer if np.prod(item.dims) > 100 and item.data_type in FLOATS]
    assert large
    assert all(item.data_type == TensorProto.FLOAT16 for item in large)
    spec = manifest.specs[name]
    kinds = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    for tensor in (*spec.inputs, *spec.outputs, *spec.states):
        assert types[tensor.name] == kinds[tensor.dtype], tensor.name
    host = {"mel", "logits", "log_prob", "alignment"}
    assert all(tensor.dtype == "float32" for tensor in (*spec.inputs, *spec.outputs) if tensor.name in host)
    assert all(tensor.dtype != "float32" for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in host)


def test_the_manifest_says_what_it_is_for_and_how_near_pytorch_it_is(
    tensorrt_bundle: Path, manifest: BundleManifest
) -> None:
    assert manifest.target == "tensorrt"
    assert {entry.precision for entry in manifest.graphs.values()} == {"fp16"}
    for name in NAMES:
        errors = {row.precision: row.error for row in manifest.parity if row.graph == name}
        assert errors["fp32"] < 1e-4 < errors["fp16"] < 1e-2  # 1e-3 to 5e-3 were measured
    report = manifest.quantization
    assert report is not None
    assert report.agreement > 0.9  # of the decisions of a random model, many of them close
    assert {row.agreement for row in report.rows} == {None}, "float32 graphs don't take float16 caches"
    assert all(row.passed for row in verify(tensorrt_bundle))


def test_onnxruntime_runs_it_on_the_cpu_and_writes_what_float32_writes(
    tensorrt_bundle: Path, tiny_bundle: Path, speech: np.ndarray
) -> None:
    texts = []
    for bundle in (tiny_bundle, tensorrt_bundle):
        with load(bundle).session(source="en", target="de", k=1) as session:
            events = session.feed(speech) + session.finish()
        texts.append([event.text for event in events if isinstance(event, TextEvent)])
    assert texts[0][:3] == texts[1][:3] != []


def traced(module: Any, spec: GraphSpec) -> ir.Model:
    return trace_graph(module, spec, sample_inputs(spec))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "none", "window"])
def test_other_kinds_of_model(
    model_config: Callable[..., Any],
    bidirectional_config: Callable[..., Any],
    make_model: Callable[..., Any],
    tmp_path: Path,
    kind: str,
) -> None:
    config = bidirectional_config() if kind == "window" else model_config(text_mixer=kind, num_layers=1)
    name, wrap = (WINDOW, BidirectionalEncoder) if kind == "window" else (ADAPTER, AdapterStep)
    source, module = graph_sources(config)[name], wrap(make_model(config)).eval()
    spec = source.spec
    expected = expected_outputs(module, source)
    graph = traced(module, spec)
    fuse(graph, "tensorrt")
    to_half(graph, in_float16(spec))
    check_ready(graph)
    save_graph(graph, tmp_path / "half.onnx")
    inferred(tmp_path / "half.onnx")
    rows = compare(tmp_path / "half.onnx", in_float16(spec), source, expected, "fp16")
    assert max(row.error for row in rows) < 1e-2


def test_int4_weights_of_an_llm_for_cuda(tiny_bundle: Path, manifest: BundleManifest) -> None:
    graph = quantize(ir.load(tiny_bundle / f"{LLM}.onnx"), "int4", largest_block=128)
    to_half(graph, manifest.specs[LLM])
    products = [node for node in graph.graph if node.op_type == "MatMulNBits"]
    assert products
    assert all(node.inputs[2].dtype == ir.DataType.FLOAT16 for node in products), "scales have the activations' type"
    with pytest.raises(ExportError, match=r"llm_step: com.microsoft; TensorRT reads standard operators up to opset 21"):
        check_ready(graph)


@pytest.mark.parametrize("kind", ["tensorrt", "cpu"])
def test_positions_beyond_what_float16_counts_keep_their_angles(
    tensorrt_bundle: Path, tiny_bundle: Path, tmp_path: Path, kind: str
) -> None:
    full = tiny_bundle / f"{LLM}.onnx"
    half = tensorrt_bundle / f"{LLM}.onnx"
    if kind == "cpu":
        half = tmp_path / "half.onnx"
        save_graph(quantize(ir.load(full), "fp16", largest_block=128), half)
    keys = []
    for path in (full, half):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        feeds = {"past_tokens": np.array([3000])}
        for item in session.get_inputs():
            if item.name not in feeds:
                shape = [{"batch": 1, "tokens": 4, "capacity": 8}.get(size, size) for size in item.shape]
                kind_of = np.float16 if item.type == "tensor(float16)" else np.float32
                feeds[item.name] = rng.standard_normal(shape).astype(kind_of)
        keys.append(session.run(["new_keys_0"], feeds)[0].astype(np.float32))
    error = np.abs(keys[1] - keys[0]).max() / np.abs(keys[0]).max()
    assert error < 2e-3  # 2e-2 with float16 angles


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (None, "cuda", {"encoder": "fp16", "connector": "fp16", "llm": "fp16"}),
        ("llm=int4", "cuda", {"encoder": "fp16", "connector": "fp16", "llm": "int4"}),
        (None, "tensorrt", {"encoder": "fp16", "connector": "fp16", "llm": "fp16"}),
        ("connector=int4,llm=int4", "rtx", {"encoder": "fp16", "connector": "int4", "llm": "int4"}),
    ],
)
def test_precisions_of_a_target(text: str | None, target: Any, expected: dict[str, str]) -> None:
    assert parse_precisions(text, 10**9, target) == expected


@pytest.mark.parametrize(
    ("text", "target"), [("int8", "cuda"), ("encoder=int4", "tensorrt"), ("int8", "rtx"), ("fp32", "tensorrt")]
)
def test_precisions_that_a_target_lacks(text: str, target: Any) -> None:
    with pytest.raises(ConfigError, match=rf"the \w+ comes in fp16.* for {target}"):
        parse_precisions(text, 10**9, target)


def small_graph(operator: str, *, opset: int = 20, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    value = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(dtype))
    node = ir.node(operator, [value])
    node.outputs[0].name = "y"
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": opset}, name="small")
    return ir.Model(graph, ir_version=10)


def test_what_tensorrt_does_not_surely_read_is_refused() -> None:
    check_ready(small_graph("Relu"))
    with pytest.raises(ExportError, match="small: operator Hardmax, which not every TensorRT 10 reads"):
        check_ready(small_graph("Hardmax"))
    with pytest.raises(ExportError, match="small: opset 23"):
        check_ready(small_graph("Relu", opset=23))
    with pytest.raises(ExportError, match="small: x is DOUBLE; TensorRT takes"):
        check_ready(small_graph("Relu", dtype=ir.DataType.DOUBLE))


def test_constants_beyond_float16_stay_finite_when_something_is_added() -> None:
    assert np.isfinite(np.float16(-LARGEST) + np.float16(-5000))
