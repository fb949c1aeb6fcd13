"""Where the tensors of one runner on a GPU lie: inputs of the host together, outputs in blocks used again and again.

Token ids and counts are numpy arrays of the host; they go to the GPU in one copy before each run. Outputs are written
to a block that nobody refers to any more, so addresses repeat, and nothing is allocated or bound anew in the steady
state, which also suits CUDA graphs. Whatever runs the graph asks `prepare` for addresses. It knows no library that runs
graphs.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bestow_edge.core.tensors import NEXT, GraphSpec, TensorSpec
from bestow_edge.runtime.devices.base import Array, Buffer, shape
from bestow_edge.runtime.devices.cuda import CudaArray, CudaDevice

Sizes = tuple[tuple[int, ...], ...]


class _Lease:
    """Lives as long as someone refers to the outputs of a run."""

    __slots__ = ("__weakref__", "block")

    def __init__(self, block: object) -> None:
        self.block = block


class OutputBlock:
    """Memory for one run's outputs. Hashable by identity, for what a library keeps about it."""

    def __init__(self, arrays: Mapping[str, CudaArray]) -> None:
        self.arrays = arrays
        self._lease: weakref.ref[_Lease] | None = None

    @property
    def is_free(self) -> bool:
        """Nobody refers to the outputs that were last written here."""
        return self._lease is None or self._lease() is None

    def lend(self) -> dict[str, CudaArray]:
        """Return arrays that keep the block from being used again as long as one of them, or a view, is there."""
        lease = _Lease(self)
        self._lease = weakref.ref(lease)
        return {
            name: CudaArray(array.pointer, array.shape, array.dtype, lease, array.strides)
            for name, array in self.arrays.items()
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads and writes."""

    inputs: Mapping[str, CudaArray]
    """Every input, on the GPU."""
    block: OutputBlock
    outputs: Mapping[str, CudaArray]
    """The caller's: arrays of the block."""


class Bindings:
    """The tensors of one runner."""

    def __init__(self, spec: GraphSpec, device: CudaDevice) -> None:
        """Begin with nothing bound."""
        self._spec, self._device = spec, device
        self._axes = {tensor.name: tensor for tensor in (*spec.inputs, *spec.states)}
        self._host: dict[str, Array] = {}
        self._host_arrays: dict[str, CudaArray] = {}
        self._bound: dict[str, CudaArray] = {}
        self._blocks: list[OutputBlock] = []
        self._sizes: Sizes = ()

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """See `Runner.bind`."""
        for name, tensor in tensors.items():
            if isinstance(tensor, CudaArray):
                self._bound[name] = tensor
                self._host.pop(name, None)
            else:
                self._host[name] = self._checked(name, np.asarray(tensor))
                self._bound.pop(name, None)

    def prepare(self) -> Prepared:
        """Bring the host's inputs to the GPU and choose where the outputs go; run at once, on the device's stream."""
        self._upload()
        inputs = self._bound | self._host_arrays
        outputs = _output_tensors(self._spec, self._named_sizes(inputs))
        sizes = tuple(sizes for sizes, _ in outputs.values())
        if sizes != self._sizes:
            self._blocks, self._sizes = [], sizes
        block = next((block for block in self._blocks if block.is_free), None)
        if block is None:
            block = OutputBlock(self._device.block(outputs))
            self._blocks.append(block)
        return Prepared(inputs, block, block.lend())

    def _checked(self, name: str, array: Array) -> Array:
        if array.dtype != self._axes[name].dtype:
            raise ValueError(f"{name}: {array.dtype}, expected {self._axes[name].dtype}")
        return array

    def _upload(self) -> None:
        """Copy the host's inputs, one behind the other, in one go."""
        tensors = {name: (array.shape, array.dtype) for name, array in self._host.items()}
        if tensors != {name: (array.shape, array.dtype) for name, array in self._host_arrays.items()}:
            self._host_arrays = self._device.block(tensors)
        if not tensors:
            return
        arrays = list(self._host_arrays.values())
        start = arrays[0].pointer
        staged = np.zeros(arrays[-1].pointer + arrays[-1].nbytes - start, dtype=np.uint8)
        for name, array in self._host_arrays.items():
            at = array.pointer - start
            staged[at : at + array.nbytes] = np.ascontiguousarray(self._host[name]).view(np.uint8).reshape(-1)
        whole = CudaArray(start, staged.shape, staged.dtype, arrays[0].owner)
        self._device.write(whole, staged)

    def _named_sizes(self, inputs: Mapping[str, CudaArray]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, array in inputs.items():
            sizes |= {
                axis: size
                for axis, size in zip(self._axes[name].axes, array.shape, strict=True)
                if isinstance(axis, str)
            }
        return sizes


def _output_tensors(
    spec: GraphSpec, sizes: Mapping[str, int]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:  # Any: dtypes differ
    """Return shape and dtype of each output, given the sizes of the inputs' axes."""
    known = dict(sizes)
    for axis, (source, divisor, addend) in spec.derived.items():
        known[axis] = known[source] // divisor + addend

    def tensor(item: TensorSpec) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return shape(item, **known), np.dtype(item.dtype)

    outputs = {item.name: tensor(item) for item in spec.outputs}
    return outputs | {NEXT + item.name: tensor(item) for item in spec.states}
