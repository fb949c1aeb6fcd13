"""A graph with caches: buffers that it reads in place and that grow with the text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bestow_edge.core.tensors import BATCH, CACHE, CAPACITY, NEW, PAST_TOKENS, TensorSpec
from bestow_edge.runtime.devices.base import Buffer, Graph

FIRST_TOKENS = 64  # slots a text cache begins with; it grows by doubling
Ints = npt.NDArray[np.int64]


class CachedGraph:
    """A graph whose inputs on the axis `capacity` are caches, filled with its outputs `new_...`."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self.runner = graph.runner()
        self.past_tokens = np.zeros(rows, dtype=np.int64)
        """(rows,) committed tokens; bound, so that the graph sees every change."""
        self._device = graph.device
        self._caches = {tensor.name: tensor for tensor in graph.spec.inputs if CAPACITY in tensor.axes}
        self._new = {NEW + name.removeprefix(CACHE): name for name in self._caches}
        self._rows = {name: _row_of(tensor) for name, tensor in self._caches.items()}
        self._buffers: dict[str, Buffer] = {}
        if self._caches:
            self.runner.bind({PAST_TOKENS: self.past_tokens})
            self._allocate(FIRST_TOKENS)

    def run(self, feeds: Mapping[str, Buffer], num_tokens: int) -> Mapping[str, Buffer]:
        """Run new tokens and store their keys and values behind the committed ones of each row."""
        if self._caches:
            self._grow(int(self.past_tokens.max()) + num_tokens)
        self.runner.bind(feeds)
        out = self.runner.run()
        self._device.copy(
            (self._buffers[cache][(*at, ..., slice(past, past + num_tokens), slice(None))], out[name][at])
            for row, past in enumerate(self.past_tokens.tolist())
            for name, cache in self._new.items()
            for at in [(*self._rows[cache], row)]
        )
        return out

    def take_rows(self, rows: Ints) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        self.past_tokens[:] = self.past_tokens[rows]
        if self._buffers:
            old = self._buffers
            self._allocate(next(iter(old.values())).shape[-2], keep=False)
            self._device.copy(
                (buffer[(*self._rows[name], row)], old[name][(*self._rows[name], source)])
                for name, buffer in self._buffers.items()
                for row, source in enumerate(rows.tolist())
            )

    def _grow(self, need: int) -> None:
        capacity = next(iter(self._buffers.values())).shape[-2]
        while capacity < need:
            capacity *= 2
            self._allocate(capacity)

    def _allocate(self, capacity: int, *, keep: bool = True) -> None:
        old = self._buffers if keep else {}
        self._buffers = self._device.zeros(self._caches.values(), capacity=capacity, batch=self.past_tokens.size)
        self._device.copy((self._buffers[name][..., : past.shape[-2], :], past) for name, past in old.items())
        self.runner.bind(self._buffers)


def _row_of(tensor: TensorSpec) -> tuple[slice, ...]:
    """Return the part of a buffer's index before the row."""
    return (slice(None),) * tensor.axes.index(BATCH)
