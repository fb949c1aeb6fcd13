"""The memory of one runner's tensors on a GPU: host inputs in one block, outputs in blocks that are used again.

Token ids and counts are numpy arrays on the host; one copy brings them to the GPU before each run. A run writes its
outputs to a block without references. So addresses repeat, and a steady stream allocates and binds nothing, which CUDA
graphs need too. Both libraries that run graphs get their addresses from `Bindings.prepare`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.base import Array, Buffer, shape
from bestow_edge.runtime.devices.cuda import CudaArray, CudaDevice

Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]  # and dtypes


class _Lease:
    """Lives as long as there is a reference to the outputs of a run."""

    __slots__ = ("__weakref__", "block")

    def __init__(self, block: object) -> None:
        self.block = block


class OutputBlock:
    """Memory for one run's outputs. Hashable by identity, as a key of a library's bindings."""

    def __init__(self, arrays: Mapping[str, CudaArray]) -> None:
        self.arrays = arrays
        self._lease: weakref.ref[_Lease] | None = None

    @property
    def is_free(self) -> bool:
        """Whether there is no reference to the outputs of the last run in it."""
        return self._lease is None or self._lease() is None

    def lend(self) -> dict[str, CudaArray]:
        """Return the arrays of a run; while one of them or a view of one exists, the block is not free."""
        lease = _Lease(self)
        self._lease = weakref.ref(lease)
        return {
            name: CudaArray(array.pointer, array.shape, array.dtype, lease, array.strides)
            for name, array in self.arrays.items()
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """The arrays that a run reads and writes."""

    inputs: Mapping[str, CudaArray]
    """Every input, on the GPU."""
    sizes: Mapping[str, int]
    """Of the inputs' named axes."""
    block: OutputBlock
    outputs: Mapping[str, CudaArray]
    """Arrays of the block, for the caller."""


class Bindings:
    """The tensors of one runner."""

    def __init__(self, spec: GraphSpec, device: CudaDevice) -> None:
        """Begin with nothing bound."""
        self._spec, self._device = spec, device
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.fed}
        self._returned = spec.returned
        self._host: dict[str, Array] = {}
        self._host_arrays: dict[str, CudaArray] = {}
        self._bound: dict[str, CudaArray] = {}
        self._blocks: list[OutputBlock] = []
        self._outputs: Shapes = {}  # of the blocks

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """See `Runner.bind`."""
        for name, tensor in tensors.items():
            if isinstance(tensor, CudaArray):
                self._bound[name] = tensor
                self._host.pop(name, None)
            else:
                array = np.asarray(tensor)
                if array.dtype != self._dtypes[name]:
                    raise ValueError(f"{name}: {array.dtype}, expected {self._dtypes[name]}")
                self._host[name] = array
                self._bound.pop(name, None)

    def prepare(self) -> Prepared:
        """Copy the host's inputs to the GPU and choose a block for the outputs. The run has to follow at once."""
        self._upload()
        inputs = self._bound | self._host_arrays
        sizes = sizes_of(self._spec, {name: array.shape for name, array in inputs.items()})
        known = self._spec.output_sizes(sizes)
        outputs = {item.name: (shape(item, **known), np.dtype(item.dtype)) for item in self._returned}
        if outputs != self._outputs:
            self._blocks, self._outputs = [], outputs
        block = next((block for block in self._blocks if block.is_free), None)
        if block is None:
            block = OutputBlock(self._device.block(outputs))
            self._blocks.append(block)
        return Prepared(inputs, sizes, block, block.lend())

    def _upload(self) -> None:
        """Copy all host inputs at once: their arrays on the GPU are one block, and so is `staged`."""
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


def sizes_of(spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the size of each named axis from the shapes of a graph's inputs.

    Raises:
        ValueError: if two inputs disagree, or one has another rank or another fixed size.
    """
    sizes: dict[str, int] = {}
    for tensor in spec.fed:
        got = shapes[tensor.name]
        pairs = zip(tensor.axes, got, strict=False)
        known = tuple(sizes.setdefault(axis, size) if isinstance(axis, str) else axis for axis, size in pairs)
        if known != got or len(got) != len(tensor.axes):
            raise ValueError(f"{spec.name}: {tensor} got {got}, where the other inputs say {known}")
    return sizes
