"""The speech memory: a ring of cross-attention keys and values, written once per encoder step.

The adapter has no positional encoding over speech, so the order of slots does not matter and a full ring simply
overwrites its oldest step. It grows by doubling up to its limit, because a token's cost follows its size. Its buffers
are on the device that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.core.specs.cross_adapter import KEYS, VALUES, CrossAdapterConfig
from bestow_edge.core.tensors import KINDS, MEMORY, TensorSpec
from bestow_edge.runtime.devices.base import CPU, Buffer, Device
from bestow_edge.runtime.devices.slots import to_slots
from bestow_edge.runtime.encoders.base import SpeechSteps

FIRST_SLOTS = 128  # 10 s of speech
MAX_SLOTS = 4096  # 5.5 minutes of speech within reach of a token


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Steps that later writes may overwrite."""

    written: int
    start: int
    """First step that is kept in `keys` and `values`."""
    keys: Buffer
    values: Buffer


class SpeechMemory:
    """Keys and values of one segment, in place."""

    def __init__(
        self,
        config: CrossAdapterConfig,
        *,
        device: Device = CPU,
        dtype: str = "float32",
        first_slots: int = FIRST_SLOTS,
        max_slots: int = MAX_SLOTS,
    ) -> None:
        """Allocate the first slots.

        Args:
            config: the adapter's sizes.
            device: where they lie.
            dtype: of the adapter graph's memory.
            first_slots: slots to begin with.
            max_slots: most slots, `first_slots` times a power of two.
        """
        self._device, self._max_slots = device, max_slots
        axes = (config.num_layers, config.num_heads, "slots", config.slot_width)
        self._specs = [TensorSpec(name, dtype, axes) for name in KINDS]
        self.keys, self.values = self._zeros(first_slots)
        """(adapter_layers, heads, slots, slot_width)"""
        self.written = 0
        """Steps ever written."""

    @property
    def inputs(self) -> dict[str, Buffer]:
        """The adapter graph's inputs by name: (heads, slots, slot_width) each, parts of `keys` and `values`."""
        kinds = zip(KINDS, (self.keys, self.values), strict=True)
        return {f"{MEMORY}{kind}_{layer}": ring[layer] for kind, ring in kinds for layer in range(ring.shape[0])}

    @property
    def slots(self) -> int:
        """Slots there are now."""
        return self.keys.shape[2]

    def write(self, speech: SpeechSteps) -> None:
        """Write steps, over older values of the same steps; the buffers are replaced by larger ones where needed.

        Args:
            speech: keys and values of steps that begin at one written before or follow those written; they end at the
                last step there is.
        """
        self._reserve(speech.end)
        count = speech.end - speech.start
        keys, values = (speech.tensors[name][:, 0, :, :count] for name in (KEYS, VALUES))
        self._device.copy(self._pairs(keys, values, speech.start))
        self.written = speech.end

    def snapshot(self, start: int, end: int) -> Snapshot:
        """Copy the slots that steps start to end would overwrite, for `restore`; the ring may grow."""
        self._reserve(end)
        start = max(start, end - self.slots)
        keys, values = self._zeros(end - start)
        pairs = self._pairs(keys, values, start)
        self._device.copy((kept, ring) for ring, kept in pairs)
        return Snapshot(self.written, start, keys, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Undo the writes since `snapshot`, which must be within its steps."""
        self._device.copy(self._pairs(snapshot.keys, snapshot.values, snapshot.start))
        self.written = snapshot.written

    def slots_of(self, visible_steps: int) -> npt.NDArray[np.int64]:
        """Return the slots of the visible steps that are still there, oldest first, shape (steps,)."""
        return np.arange(max(0, self.written - self.slots), min(visible_steps, self.written)) % self.slots

    def _pairs(self, keys: Buffer, values: Buffer, start: int) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield which slots take which of some steps, each (adapter_layers, heads, steps, slot_width)."""
        yield from to_slots(self.keys, keys, start)
        yield from to_slots(self.values, values, start)

    def _reserve(self, end: int) -> None:
        while end > self.slots < self._max_slots:
            old = self.keys, self.values
            self.keys, self.values = self._zeros(2 * self.slots)
            self._device.copy(self._pairs(*old, 0))

    def _zeros(self, slots: int) -> tuple[Buffer, Buffer]:
        keys, values = self._device.zeros(self._specs, slots=slots).values()
        return keys, values
