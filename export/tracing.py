"""Traces one PyTorch module as an ONNX graph with the names and axes of its GraphSpec. Torch and onnx only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from bestow_edge.core.errors import ExportError
from bestow_edge.core.tensors import BATCH, CAPACITY, FRAMES, POSITIONS, SCORED, SLOTS, TOKENS, GraphSpec
from bestow_edge.export.rewriting.fusion import simplify

OPSET = 20
EXTERNAL_DATA_BYTES = 100_000_000  # a protobuf file is read whole and copied, and ends at 2 GB
# all different; frames are whole steps
SAMPLE_SIZES = {BATCH: 2, FRAMES: 24, TOKENS: 5, SCORED: 3, SLOTS: 24, CAPACITY: 13, POSITIONS: 28}
DTYPES = {"float32": torch.float32, "int64": torch.int64}


def sample_inputs(spec: GraphSpec) -> list[Tensor]:
    """Return inputs to trace a graph with: zeros, of sizes that no two axes share."""
    whole = {axis.source: 3 * axis.divisor for axis in spec.derived if axis.divisor > 1}
    sizes = SAMPLE_SIZES | {axis: max(size, SAMPLE_SIZES[axis]) for axis, size in whole.items()}
    tensors = []
    for tensor in (*spec.inputs, *spec.states):
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
        tensors.append(torch.zeros(shape, dtype=DTYPES[tensor.dtype]))
    return tensors


def trace_graph(module: nn.Module, spec: GraphSpec, inputs: Sequence[Tensor]) -> ir.Model:
    """Trace `module`; the graph's weights are the module's own tensors, not copies.

    Args:
        module: takes the spec's inputs and states in order, returns its outputs and next states in order.
        spec: names and axes.
        inputs: tensors to trace with.

    Raises:
        ExportError: if the module cannot be traced.
    """
    shapes = _dynamic_shapes(spec)
    named = type(module).forward.__code__.co_argcount - 1  # the arguments before `*states`
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13's exporter warns of its own code and of its own Dims
            program = torch.onnx.export(
                module,
                tuple(inputs),
                input_names=spec.input_names,
                output_names=spec.output_names,
                dynamic_shapes=(*shapes[:named], tuple(shapes[named:])) if len(shapes) > named else tuple(shapes),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                optimize=False,  # `simplify` does what is needed of it in a fraction of the time
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"{spec.name} cannot be traced: {error}") from error
    if program is None:
        raise ExportError(f"{spec.name}: the exporter returned nothing; install the versions of the extra `export`")
    model: ir.Model = program.model
    model.graph.name = spec.name
    simplify(model)
    for value, tensor in zip(model.graph.outputs, (*spec.outputs, *spec.states), strict=True):
        value.shape = ir.Shape(tensor.axes)  # readable names, and no size that happened to be traced
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph; past `EXTERNAL_DATA_BYTES` its weights go to `<path>.data` beside it, to be mapped into memory."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, path, external_data=f"{path.name}.data" if weights > EXTERNAL_DATA_BYTES else None)


def _dynamic_shapes(spec: GraphSpec) -> list[dict[int, object]]:
    dims: dict[str, object] = {axis: torch.export.Dim(axis, min=1, max=2**20) for axis in SAMPLE_SIZES}
    for axis in spec.derived:
        if axis.divisor > 1:  # inputs come in whole steps
            dims[axis.source] = axis.divisor * torch.export.Dim(axis.name, min=1, max=2**13)
    return [
        {index: dims[axis] for index, axis in enumerate(tensor.axes) if isinstance(axis, str)} for tensor in spec.fed
    ]
