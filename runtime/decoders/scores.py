"""Outputs of a run that stay on the device until they are asked for."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from bestow_edge.runtime.decoders.base import Floats
from bestow_edge.runtime.devices.base import Array, Buffer, Device


class OnDevice:
    """A tensor of a run, brought from the device once, when it is asked for."""

    def __init__(self, device: Device, buffer: Buffer) -> None:
        self._device, self._buffer = device, buffer

    @cached_property
    def array(self) -> Array:
        """The tensor in memory."""
        return self._device.get(self._buffer)[0]


def log_probs(logits: OnDevice, row: int) -> Floats:
    """Return the natural log-probability of each token, (vocab,), from logits (rows, vocab)."""
    shifted = logits.array[row] - logits.array[row].max()
    result: Floats = shifted - np.log(np.exp(shifted).sum())
    return result
