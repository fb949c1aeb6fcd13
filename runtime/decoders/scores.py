"""Outputs of a run that stay on the device until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from bestow_edge.core.errors import GraphError
from bestow_edge.core.tensors import LOG_PROB, LOGITS, TOKEN_ID, GraphSpec
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


def best_tokens(device: Device, out: Mapping[str, Buffer], spec: GraphSpec) -> list[tuple[int, float]]:
    """Return the most probable token of each row and its natural log-probability, from the outputs of an LLM's graph.

    Where the graph scores several tokens, those of a row follow each other.

    Raises:
        GraphError: if a token is no part of the vocabulary, or a probability is not a number.
    """
    token_ids, log_prob = device.get(out[TOKEN_ID], out[LOG_PROB])
    vocabulary = out[LOGITS].shape[-1]
    found = [(int(token), float(value)) for token, value in zip(token_ids.flat, log_prob.flat, strict=True)]
    for token, value in found:
        if not 0 <= token < vocabulary or not math.isfinite(value):
            got = f"{spec.name} returned token {token} of log-probability {value}"
            expected = f"a token below {vocabulary} and a finite number"
            raise GraphError(f"{got}, expected {expected}; check the bundle: bestow-edge verify")
    return found


def alignment_of(alignment: OnDevice, row: int, slots: Sequence[int], place: int) -> Floats:
    """Return the attention of a row's token at a place, (layers, slots), from (layers, rows, tokens, slots + 1)."""
    found: Floats = alignment.array[:, row, place, list(slots)]
    return found


def log_probs(logits: OnDevice, row: int, place: int = 0) -> Floats:
    """Return the natural log-probability of each token, (vocab,), from logits (rows, vocab), or (rows, scored, vocab).

    `place` counts where several tokens are scored.
    """
    scored = logits.array[row].reshape(-1, logits.array.shape[-1])  # (scored, vocab)
    shifted = scored[place] - scored[place].max()
    result: Floats = shifted - np.log(np.exp(shifted).sum())
    return result
