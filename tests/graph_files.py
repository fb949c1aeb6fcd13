"""Traced and quantised graphs as files, in the steps that an export takes."""

from pathlib import Path

import onnx_ir as ir
from torch import nn

from bestow_edge.bundle import Precision
from bestow_edge.export.graph import sample_inputs, save_graph, trace_graph
from bestow_edge.export.quantize import quantize
from bestow_edge.export.rewrite import fuse
from bestow_edge.graphs import GraphSpec


def write_graph(module: nn.Module, spec: GraphSpec, path: Path) -> None:
    """Trace a module to a float32 graph."""
    graph = trace_graph(module, spec, sample_inputs(spec))
    fuse(graph)
    save_graph(graph, path)


def quantize_file(source: Path, target: Path, precision: Precision = "int8", *, rows_apart: bool = False) -> None:
    """Quantise a graph from file to file."""
    save_graph(quantize(ir.load(source), precision, rows_apart=rows_apart), target)
