"""What the runtime asks of a machine: a device that holds tensors, and graphs that run on them. And the CPU.

A tensor where its device computes is a `Buffer`: on the CPU a numpy array, on a GPU a pointer with shape and dtype.
Caches, rings and the speech memory are buffers; token ids and counts are numpy arrays, which a runner reads anew at
each run. Decoder, speech memory and encoder streams are written against these protocols alone, so that the same code
runs on every backend. It knows no backend but the CPU's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bestow_edge.core.tensors import GraphSpec, TensorSpec

Array = npt.NDArray[Any]  # Any: floats and int64 tensors pass through here alike


class Buffer(Protocol):
    """A tensor where its device computes. A numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's name of its numbers."""

    def __getitem__(self, key: Any) -> Any:  # Any: numpy's own signature is as wide
        """Return a view: integers, slices of step 1 and `...`, as in numpy."""


class Device(Protocol):
    """Where graphs run and buffers lie. All its work is done in the order asked for."""

    @property
    def name(self) -> str:
        """Such as `cpu` or `cuda:0`."""

    def zeros(self, tensors: Iterable[TensorSpec], **sizes: int) -> dict[str, Buffer]:
        """Return new buffers of zeros by name, which lie together.

        Args:
            tensors: names, dtypes and axes.
            **sizes: of named axes; `batch` is 1 if not given.
        """

    def put(self, array: Array) -> Buffer:
        """Return a new buffer with an array's numbers."""

    def get(self, *buffers: Buffer) -> tuple[Array, ...]:
        """Return what buffers hold once all that was asked for before is done; one wait for all of them."""

    def copy(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> None:
        """Write into each target, mostly a view, its source, of the same shape and dtype: (target, source) each."""


class Runner(Protocol):
    """One stream's bindings to a graph."""

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Bind inputs by pointer; they stay bound until they are bound anew.

        Buffers of the graph's device, or numpy arrays. Whatever is written to either is seen by the next run.
        """

    def run(self) -> Mapping[str, Buffer]:
        """Run the graph on what is bound and return its outputs by name, on its device.

        They are the caller's: no later run writes to them as long as they are referred to. On a GPU they may not be
        computed yet: `Device.copy`, `Device.get` and other runners on the device come after them.
        """


class Graph(Protocol):
    """A loaded graph, shared by all sessions; running it changes nothing in it."""

    @property
    def spec(self) -> GraphSpec:
        """Its contract."""

    @property
    def device(self) -> Device:
        """Where it runs."""

    def runner(self) -> Runner:
        """Return a runner with bindings of its own."""


class Cpu:
    """The CPU: buffers are numpy arrays, and everything is done when it is asked for."""

    name = "cpu"

    def zeros(self, tensors: Iterable[TensorSpec], **sizes: int) -> dict[str, Buffer]:
        """See `Device`."""
        return {tensor.name: np.zeros(shape(tensor, **sizes), dtype=tensor.dtype) for tensor in tensors}

    def put(self, array: Array) -> Buffer:
        """See `Device`."""
        return array.copy()

    def get(self, *buffers: Buffer) -> tuple[Array, ...]:
        """Return the buffers, which are arrays."""
        return buffers  # type: ignore[return-value]  # no other kind is made here

    def copy(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> None:
        """See `Device`."""
        for target, source in pairs:
            target[...] = source  # type: ignore[index]  # arrays, as above


CPU = Cpu()


def shape(tensor: TensorSpec, **sizes: int) -> tuple[int, ...]:
    """Return a tensor's shape, its named axes given, batch 1 if not given."""
    return tuple(axis if isinstance(axis, int) else {"batch": 1, **sizes}[axis] for axis in tensor.axes)
