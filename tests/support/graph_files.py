"""Traced and quantised graphs as files, in the steps that an export takes."""

from pathlib import Path

import onnx_ir as ir
from torch import nn

from bestow_edge.core.bundle import Precision
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.rewriting.quantization import quantize
from bestow_edge.export.tracing import sample_inputs, save_graph, trace_graph


def write_graph(module: nn.Module, spec: GraphSpec, path: Path) -> None:
    """Trace a module to a float32 graph."""
    graph = trace_graph(module, spec, sample_inputs(spec))
    fuse(graph)
    save_graph(graph, path)


def quantize_file(
    source: Path, target: Path, precision: Precision = "int8", *, largest_block: int | None = None
) -> None:
    """Quantise a graph from file to file."""
    save_graph(quantize(ir.load(source), precision, largest_block=largest_block), target)
