"""What a stream asks of the text side, and the decoder of a model's kind of connector.

A token is tried as often as needed and committed once: a token that is tried again with more speech overwrites its own
keys and values. A kind has its file here: `open_decoder` returns a `Decoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.kinds import module_of
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.encoders.base import SpeechSteps

SPAN_SHARE = 0.1  # a word lasts as long as the attention around its peak is at least this share of it
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The token that the model would write next in one row."""

    token_id: int
    log_prob: float
    """Natural logarithm of its probability."""
    visible_steps: int
    """Encoder steps it was made with."""
    read_log_probs: Callable[[], Floats] = field(repr=False)
    read_alignment: Callable[[], Floats] = field(repr=False)

    @property
    def log_probs(self) -> Floats:
        """(vocab,) of every token; brought from the device when it is asked for."""
        return self.read_log_probs()

    @property
    def alignment(self) -> Floats:
        """(layers, steps + 1) attention over the visible steps, mean over heads, the null frame last.

        Brought from the device when it is asked for.
        """
        return self.read_alignment()

    def span(self) -> tuple[int, int]:
        """Return first and end step of the speech it was written for: the peak of the last layer's attention."""
        weights = self.alignment[-1, :-1]
        if not weights.size:
            return self.visible_steps, self.visible_steps
        peak = int(weights.argmax())
        low = np.flatnonzero(weights < SPAN_SHARE * weights[peak])
        first = int(low[low < peak].max(initial=-1)) + 1
        end = int(low[low > peak].min(initial=weights.size))
        offset = self.visible_steps - weights.size
        return offset + first, offset + end


class Decoder(Protocol):
    """Prompts and answers so far of the texts about one segment, and the speech they share. A row is one text."""

    @property
    def rows(self) -> int:
        """Texts decoded at once."""

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(rows,) committed tokens, prompt included."""

    @property
    def heard(self) -> int:
        """Encoder steps of the segment that texts can see."""

    def hear(self, speech: SpeechSteps) -> None:
        """Let the texts see more speech. It follows the steps heard, or begins at an earlier one and overwrites."""

    def supposing(self, speech: Sequence[SpeechSteps]) -> AbstractContextManager[None]:
        """Hear some speech for the time of a `with` block, and forget it at its end."""

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Predict the next token of each row when it sees that many steps; commits nothing."""

    def commit(self, row: int, token_id: int) -> None:
        """Write a token behind what the last attempt of a row saw as its past."""

    def rehearsal(self) -> AbstractContextManager[None]:
        """Forget, at the end of a `with` block, everything that was committed in it."""

    def take_rows(self, rows: Sequence[int]) -> None:
        """Make row i a copy of what row `rows[i]` was."""

    def branch(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Return a decoder of fresh rows about the same speech."""


def open_decoder(graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]) -> Decoder:
    """Return a decoder of the model's kind that has run the prompts and heard nothing.

    Args:
        graphs: of the bundle, by name.
        manifest: of the bundle.
        prompts: token ids of each row's whole prompt.
    """
    module = module_of("bestow_edge.runtime.decoders", manifest.model.connector.kind)
    decoder: Decoder = module.open_decoder(graphs, manifest, prompts)
    return decoder


def hear_all(decoder: Decoder, speech: Iterable[SpeechSteps]) -> None:
    """Let a decoder hear several chunks."""
    for steps in speech:
        decoder.hear(steps)
