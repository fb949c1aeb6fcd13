"""Compares exported graphs with PyTorch at several sizes of input. Torch on one side, onnxruntime on the other.

Inputs are random but possible: caches partly filled, rings that have wrapped, padded chunks. fp32 graphs must agree to
rounding; int8 graphs are compared with the same fp32 outputs, so that the row shows what quantisation costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bestow_edge.core.bundle import ParityRow, Precision
from bestow_edge.core.comparison import relative_error
from bestow_edge.core.errors import ParityError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.graphs.base import Feeds, GraphSource
from bestow_edge.runtime.devices.base import Array
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.25, "int4": 0.7}
"""Largest difference over largest value. fp32: order of summation. The others on random inputs: int8 0.02 to 0.1
measured, int4 0.1 to 0.4; a wrong graph gives more than 1. `agreement` measures what they cost on speech."""

Reference = Callable[[Feeds], dict[str, Array]]
Expected = Mapping[str, dict[str, Array]]  # outputs by case


def torch_reference(module: torch.nn.Module, spec: GraphSpec) -> Reference:
    """Wrap the module a graph was traced from."""

    def run(feeds: Feeds) -> dict[str, Array]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(feeds[name]) for name in spec.input_names))
        return {name: output.numpy() for name, output in zip(spec.output_names, outputs, strict=True)}

    return run


def expected_outputs(module: torch.nn.Module, source: GraphSource) -> Expected:
    """Run the module a graph was traced from on every case."""
    reference = torch_reference(module, source.spec)
    return {case: reference(feeds) for case, feeds in source.cases()}


def compare(
    path: Path, spec: GraphSpec, source: GraphSource, expected: Expected, precision: Precision
) -> list[ParityRow]:
    """Run a graph on every case; fp32 weights stay in their file.

    Args:
        path: the graph.
        spec: its contract, which may have other dtypes than the source's.
        source: what it was traced from.
        expected: outputs of PyTorch by case.
        precision: of its weights.

    Raises:
        SignatureError: if the graph's tensors differ from the spec.
        ParityError: if an output differs by more than the tolerance.
    """
    runner = OnnxGraph(path, spec, threads=0, mapped=precision == "fp32").runner()
    rows = []
    for case, feeds in source.cases(spec):
        runner.bind(feeds)
        error = relative_error(runner.run(), expected[case])
        rows.append(
            ParityRow(graph=spec.name, case=case, precision=precision, error=error, tolerance=TOLERANCES[precision])
        )
    check(rows)
    return rows


def check(rows: Sequence[ParityRow]) -> None:
    """Refuse rows beyond their tolerance.

    Raises:
        ParityError: if there is such a row; the message names the first.
    """
    for row in rows:
        if not row.error <= row.tolerance:
            got = f"{row.graph} ({row.precision}, {row.case}) differs from PyTorch by {row.error:.1e}"
            raise ParityError(f"{got}, allowed are {row.tolerance:.0e}; no bundle was written")
