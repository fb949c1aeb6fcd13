"""The matrix products of a bundle's graph alone, one after the other: the floor that onnxruntime's kernels set.

    python benchmarks/rivals/products.py BUNDLE GRAPH ROWS [--threads 1]

Takes the graph's products with constant matrices (MatMulNBits, DynamicQuantizeMatMul, MatMul) out of it, weights and
all, feeds each random rows and times the whole: what is left of the graph's own time is everything else in it. Prints
one JSON line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import report

from bestow_edge.core.bundle import read_manifest

PRODUCTS = ("MatMulNBits", "DynamicQuantizeMatMul", "MatMul")
ROWS_AXIS = "rows"


def width(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> int | None:
    """Return how wide the input of a product is; None if its matrix is no constant."""
    if node.op_type == "MatMulNBits":
        return int(next(item.i for item in node.attribute if item.name == "K"))
    matrix = weights.get(node.input[1])
    return matrix.dims[0] if matrix is not None and len(matrix.dims) == 2 else None


def products_alone(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return a model of the products alone, and how many there are."""
    weights = {item.name: item for item in model.graph.initializer}
    nodes, inputs, used = [], {}, set()
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or (size := width(node, weights)) is None:
            continue
        name = f"input_{size}"
        inputs[name] = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [ROWS_AXIS, size])
        node.input[0] = name
        nodes.append(node)
        used.update(node.input)
    outputs = [onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes]
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.output[0] in used]  # of scales
    used.update(node.input[0] for node in casts)
    kept = [tensor for name, tensor in weights.items() if name in used]
    graph = onnx.helper.make_graph([*casts, *nodes], "products", list(inputs.values()), outputs, kept)
    made = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return made, len(nodes)


def load(bundle: Path, graph: str, threads: int) -> tuple[Any, int]:  # Any: onnxruntime has no types
    """Return a session of the graph's products, and how many they are."""
    path = bundle / read_manifest(bundle).graphs[graph].file
    alone, count = products_alone(onnx.load(path, load_external_data=False))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        target = Path(folder) / path.name
        target.write_bytes(alone.SerializeToString())
        for data in path.parent.glob(f"{path.name}.*"):
            try:
                os.link(data, target.parent / data.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(data, target.parent / data.name)
        return ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"]), count


def main() -> None:
    """Time the products."""
    parser = report.parser(__doc__, "bundle")
    parser.add_argument("graph")
    parser.add_argument("rows", type=int)
    args = parser.parse_args()
    session, count = load(args.bundle, args.graph, args.threads)
    rng = np.random.default_rng(0)
    binding = session.io_binding()
    for item in session.get_inputs():
        binding.bind_cpu_input(item.name, rng.standard_normal((args.rows, item.shape[1])).astype(np.float32))
    for item in session.get_outputs():
        binding.bind_output(item.name, "cpu")
    times = report.times_ms(lambda: session.run_with_iobinding(binding), args.runs)
    report.tell(**report.summary(times), products=count, rows=args.rows, version=ort.__version__)


if __name__ == "__main__":
    main()
