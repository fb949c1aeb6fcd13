"""The speech memory: a ring of cross-attention keys and values, written once per encoder step.

The adapter has no positional encoding over speech, so the order of slots does not matter and a full ring simply
overwrites its oldest step. It grows by doubling up to its limit, because a token's cost follows its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.config import AdapterConfig
from bestow_edge.runtime.encoder_stream import Floats, SpeechSteps

FIRST_SLOTS = 128  # 10 s of speech
MAX_SLOTS = 4096  # 5.5 minutes of speech within reach of a token


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a rehearsal may overwrite."""

    written: int
    slots: npt.NDArray[np.int64]
    keys: Floats
    values: Floats


class SpeechMemory:
    """Keys and values of one segment, in place."""

    def __init__(self, config: AdapterConfig, *, first_slots: int = FIRST_SLOTS, max_slots: int = MAX_SLOTS) -> None:
        """Allocate the first slots.

        Args:
            config: the adapter's sizes.
            first_slots: slots to begin with.
            max_slots: most slots, `first_slots` times a power of two.
        """
        self._max_slots = max_slots
        self.keys = np.zeros((config.num_layers, config.num_heads, first_slots, config.head_dim), dtype=np.float32)
        self.values = np.zeros_like(self.keys)
        self.written = 0
        """Steps ever written."""

    @property
    def slots(self) -> int:
        """Slots there are now."""
        return self.keys.shape[2]

    def write(self, speech: SpeechSteps) -> None:
        """Write steps, over older values of the same steps; the arrays are replaced by larger ones where needed.

        Args:
            speech: keys and values of steps that begin at one written before or follow those written; they end at the
                last step there is.
        """
        self._reserve(speech.end)
        slots = self._slots(speech.start, speech.end)
        self.keys[:, :, slots] = speech.keys[:, 0, :, -slots.size :]
        self.values[:, :, slots] = speech.values[:, 0, :, -slots.size :]
        self.written = speech.end

    def snapshot(self, start: int, end: int) -> Snapshot:
        """Remember what steps start to end would overwrite, for `restore`; the ring may grow."""
        self._reserve(end)
        slots = self._slots(start, end)
        return Snapshot(self.written, slots, self.keys[:, :, slots], self.values[:, :, slots])

    def restore(self, snapshot: Snapshot) -> None:
        """Undo what was written since `snapshot`, at most the steps it was made for."""
        self.keys[:, :, snapshot.slots] = snapshot.keys
        self.values[:, :, snapshot.slots] = snapshot.values
        self.written = snapshot.written

    def slots_of(self, visible_steps: int) -> npt.NDArray[np.int64]:
        """Return the slots of the visible steps that are still there, oldest first, shape (steps,)."""
        return np.arange(max(0, self.written - self.slots), min(visible_steps, self.written)) % self.slots

    def _slots(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Return the slots of steps start to end; a ring holds the last ones only, and a slot is written once."""
        return np.arange(max(start, end - self.slots), end) % self.slots

    def _reserve(self, end: int) -> None:
        while end > self.slots < self._max_slots:
            self.keys, self.values = _doubled(self.keys), _doubled(self.values)


def _doubled(array: Floats) -> Floats:
    larger: Floats = np.concatenate([array, np.zeros_like(array)], axis=2)
    return larger
