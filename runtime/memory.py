"""The speech memory: a ring of cross-attention keys and values, one slot per encoder step.

The adapter has no positional encoding over speech, so the order of slots does not matter and a full ring simply
overwrites its oldest step. It grows by doubling up to its limit, because a token's cost follows its size.
"""

from __future__ import annotations

import numpy as np

from bestow_edge.config import AdapterConfig
from bestow_edge.runtime.encoder_stream import Floats, SpeechSteps

FIRST_SLOTS = 128  # 10 s of speech
MAX_SLOTS = 4096  # 5.5 minutes of speech within reach of a token


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

    def write(self, speech: SpeechSteps) -> bool:
        """Write steps, over older values of the same steps; return whether the arrays were replaced by larger ones.

        Args:
            speech: keys and values of steps that begin at one written before or follow those written; they end at the
                last step there is.
        """
        end = speech.start + speech.keys.shape[3]
        grown = False
        while end > self.slots < self._max_slots:
            self.keys, self.values = _doubled(self.keys), _doubled(self.values)
            grown = True
        kept = min(end - speech.start, self.slots)  # a ring holds no more, and a slot is written once
        slots = np.arange(end - kept, end) % self.slots
        self.keys[:, :, slots] = speech.keys[:, 0, :, -kept:]
        self.values[:, :, slots] = speech.values[:, 0, :, -kept:]
        self.written = end
        return grown


def _doubled(array: Floats) -> Floats:
    larger: Floats = np.concatenate([array, np.zeros_like(array)], axis=2)
    return larger
