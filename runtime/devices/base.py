"""The protocols between the runtime and a machine (buffers, devices, graphs, runners), and the CPU's device.

A `Buffer` is a numpy array on the CPU, and a pointer with shape and dtype on a GPU. Caches, rings and the speech memory
are buffers. Token ids and counts are numpy arrays, which a runner reads again at each run. Decoders and encoders use
these protocols alone, so the same code runs on every backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import GraphError
from bestow_edge.core.tensors import GraphSpec, TensorSpec

Array = npt.NDArray[Any]  # Any: floats and int64 tensors pass through here alike


class Buffer(Protocol):
    """A tensor in its device's memory. A numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of its numbers."""

    def __getitem__(self, key: Any) -> Any:  # Any: numpy's own signature is as wide
        """Return a view. Keys are integers, slices of step 1 and `...`, as in numpy."""


class Device(Protocol):
    """Holds buffers and runs graphs. It does all its work in the order of the calls."""

    @property
    def name(self) -> str:
        """Such as `cpu` or `cuda:0`."""

    def zeros(self, tensors: Iterable[TensorSpec], **sizes: int) -> dict[str, Buffer]:
        """Return new buffers of zeros by name, in one block of memory; `sizes` as for `shape`."""

    def put(self, array: Array) -> Buffer:
        """Return a new buffer with an array's numbers."""

    def get(self, *buffers: Buffer) -> tuple[Array, ...]:
        """Return the contents of buffers after all earlier work is done, with one wait for all buffers."""

    def copy(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> None:
        """Copy each source into its target, which may be a view of the same shape and dtype: (target, source) pairs."""


class Runner(Protocol):
    """One stream's bindings to a graph."""

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Bind buffers of the graph's device, or numpy arrays, by pointer until the next `bind` of the same names.

        The next run sees whatever was written to them.
        """

    def run(self) -> Mapping[str, Buffer]:
        """Run the graph on the bound inputs and return its outputs by name, on its device.

        No later run writes to the outputs while the caller keeps a reference. On a GPU they may not be computed yet;
        `Device.copy`, `Device.get` and other runners of the device come after the run in its stream.
        """


class Graph(Protocol):
    """A loaded graph. All sessions share it, and a run does not change it."""

    @property
    def spec(self) -> GraphSpec:
        """Its contract."""

    @property
    def device(self) -> Device:
        """The device it runs on."""

    def runner(self) -> Runner:
        """Return a runner with bindings of its own."""


class Cpu:
    """The CPU: buffers are numpy arrays, and every call is done when it returns."""

    name = "cpu"

    def zeros(self, tensors: Iterable[TensorSpec], **sizes: int) -> dict[str, Buffer]:
        """See `Device`."""
        return {tensor.name: np.zeros(shape(tensor, **sizes), dtype=tensor.dtype) for tensor in tensors}

    def put(self, array: Array) -> Buffer:
        """See `Device`."""
        return array.copy()

    def get(self, *buffers: Buffer) -> tuple[Array, ...]:
        """Return the buffers, which are arrays."""
        return buffers  # type: ignore[return-value]  # this device makes no other kind

    def copy(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> None:
        """See `Device`."""
        try:
            for target, source in pairs:
                target[...] = source  # type: ignore[index]  # arrays, as above
        except ValueError as error:  # of a graph whose outputs have other sizes than it promises
            raise GraphError(
                f"an output of a graph has another shape ({error}); check the bundle: bestow-edge verify"
            ) from error


CPU = Cpu()


def shape(tensor: TensorSpec, **sizes: int) -> tuple[int, ...]:
    """Return a tensor's shape for some sizes of named axes; `batch` is 1 if not given."""
    return tuple(axis if isinstance(axis, int) else {"batch": 1, **sizes}[axis] for axis in tensor.axes)


Graphs = Mapping[str, Graph]
"""A bundle's graphs by name, in the order of `BundleManifest.specs`."""
