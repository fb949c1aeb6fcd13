"""Compares exported graphs with PyTorch at several sizes of input. Torch on one side, onnxruntime on the other.

Inputs are random but lawful: caches partly filled, rings that have wrapped, padded chunks. fp32 graphs must agree to
rounding; int8 graphs are compared with the same fp32 outputs, so that the row shows what quantisation costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bestow_edge.core.bundle import ParityRow, Precision
from bestow_edge.core.config import SUBSAMPLING, ModelConfig
from bestow_edge.core.errors import ParityError
from bestow_edge.core.tensors import ENCODER, WINDOW, GraphSpec, TensorSpec
from bestow_edge.runtime.devices.base import Array
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph
from bestow_edge.runtime.records.golden import relative_error

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.25, "int4": 0.7}
"""Largest difference over largest value. fp32: order of summation. The others on random inputs: int8 0.02 to 0.1
measured, int4 0.1 to 0.4; a wrong graph gives more than 1. What they cost on speech is for the agreement to say."""

Feeds = dict[str, Array]
Reference = Callable[[Feeds], dict[str, Array]]
Expected = Mapping[str, dict[str, Array]]  # outputs by case


def cases(spec: GraphSpec, config: ModelConfig) -> Iterator[tuple[str, Feeds]]:
    """Yield lawful random inputs of several sizes, each with a short description."""
    rng = np.random.default_rng(0)
    for size in _sizes(spec, config):
        feeds = {tensor.name: _random(tensor, size, rng) for tensor in (*spec.inputs, *spec.states)}
        _make_lawful(feeds, size, config, rng)
        used = {axis for tensor in spec.inputs for axis in tensor.axes}
        yield " ".join(f"{name}={count}" for name, count in size.items() if name in used), feeds


def _sizes(spec: GraphSpec, config: ModelConfig) -> list[dict[str, int]]:
    if spec.name == ENCODER:
        sizes = [{"batch": 1, "frames": SUBSAMPLING * (lookahead + 1)} for lookahead in config.streaming.lookaheads]
        return [*sizes, {"batch": 3, "frames": 2 * SUBSAMPLING}]
    if config.bidirectional is not None and spec.name == WINDOW:
        first, largest = config.bidirectional.block + config.bidirectional.right_context, config.bidirectional.window
        sizes = [{"batch": 1, "frames": SUBSAMPLING * steps} for steps in (first, largest)]
        return [*sizes, {"batch": SUBSAMPLING, "frames": 3 * SUBSAMPLING}]  # each number of frames in the last step
    shapes = [(1, 1, 128, 64), (1, 7, 128, 64), (1, 1, 256, 128), (2, 4, 16, 9)]
    return [dict(zip(("batch", "tokens", "memory", "capacity"), shape, strict=True)) for shape in shapes]


def torch_reference(module: torch.nn.Module, spec: GraphSpec) -> Reference:
    """Wrap the module a graph was traced from."""

    def run(feeds: Feeds) -> dict[str, Array]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(feeds[name]) for name in spec.input_names))
        return {name: output.numpy() for name, output in zip(spec.output_names, outputs, strict=True)}

    return run


def expected_outputs(module: torch.nn.Module, spec: GraphSpec, config: ModelConfig) -> Expected:
    """Run the module a graph was traced from on every case."""
    reference = torch_reference(module, spec)
    return {case: reference(feeds) for case, feeds in cases(spec, config)}


def compare(
    path: Path, spec: GraphSpec, config: ModelConfig, expected: Expected, precision: Precision
) -> list[ParityRow]:
    """Run a graph on every case; fp32 weights stay in their file.

    Raises:
        SignatureError: the graph's tensors differ from the spec.
        ParityError: an output differs by more than the tolerance.
    """
    runner = OnnxGraph(path, spec, threads=0, mapped=precision == "fp32").runner()
    rows = []
    for case, feeds in cases(spec, config):
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
        ParityError: names the first one.
    """
    for row in rows:
        if not row.error <= row.tolerance:
            got = f"{row.graph} ({row.precision}, {row.case}) differs from PyTorch by {row.error:.1e}"
            raise ParityError(f"{got}, allowed are {row.tolerance:.0e}; no bundle was written")


def _random(tensor: TensorSpec, sizes: dict[str, int], rng: np.random.Generator) -> Array:
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
    if tensor.dtype == "int64":
        return np.zeros(shape, dtype=np.int64)
    return rng.standard_normal(shape).astype(tensor.dtype)


def _make_lawful(feeds: Feeds, size: dict[str, int], config: ModelConfig, rng: np.random.Generator) -> None:
    batch = size["batch"]
    if "mel" in feeds:
        if config.features.normalize == "none":
            feeds["mel"] = (feeds["mel"] * 4 - 12).astype(np.float32)  # mean and spread of log-mel speech
        feeds["frame_end"] += size["frames"] - np.arange(batch)
    if "past_steps" in feeds:
        feeds["past_steps"] += 3 * config.streaming.left_context * np.arange(batch) + 5  # rings empty and wrapped
    if "past_tokens" in feeds:
        feeds["past_tokens"] += size["capacity"] - size["tokens"] - np.arange(batch)
    if "token_ids" in feeds:
        feeds["token_ids"] += rng.integers(0, config.llm["vocab_size"], feeds["token_ids"].shape)
        feeds["written_steps"] += size["memory"] + 11  # the ring has wrapped
        feeds["visible_steps"] += size["memory"] // 2 + np.arange(size["tokens"])
