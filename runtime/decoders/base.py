"""The protocol of decoders, and the decoder for a model's kind of connector.

A token may be attempted several times and is committed once: an attempt with more speech overwrites the keys and values
of the one before. Each kind has a file here, whose `open_decoder` returns a `Decoder`.
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


def no_languages() -> Floats:
    """Return the logits of a model that detects no language, (0,)."""
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The token that the model would write next in one row."""

    token_id: int
    log_prob: float
    """Natural logarithm of its probability."""
    visible_steps: int
    """Encoder steps that were visible to it."""
    read_log_probs: Callable[[], Floats] = field(repr=False)
    read_alignment: Callable[[], Floats] | None = field(repr=False, default=None)
    """None where attention does not show the place of a token in the speech."""
    read_languages: Callable[[], Floats] = field(repr=False, default=no_languages)

    @property
    def log_probs(self) -> Floats:
        """(vocab,) of every token; read from the device on access."""
        return self.read_log_probs()

    @property
    def alignment(self) -> Floats:
        """(layers, steps + 1) attention over the visible steps, mean over heads, the null frame last.

        Read from the device on access.

        Raises:
            RuntimeError: if there is none.
        """
        if self.read_alignment is None:
            raise RuntimeError("the model shows no alignment; a policy of its connector asks for none")
        return self.read_alignment()

    @property
    def languages(self) -> Floats:
        """(languages,) logits of the tokens of `ConnectorConfig.detects`, for an attempt behind the prompt's begin."""
        return self.read_languages()

    def span(self) -> tuple[int, int]:
        """Return first and end step of its speech: the peak of the last layer's attention.

        Without an alignment both are the end of the visible speech, the latest place that it can have.
        """
        if self.read_alignment is None:
            return self.visible_steps, self.visible_steps
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
    """Prompts and answers of the texts about one segment, and the speech that they share. A row is one text."""

    @property
    def rows(self) -> int:
        """Texts decoded at once."""

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(rows,) committed tokens, prompt included."""

    @property
    def heard(self) -> int:
        """Encoder steps of the segment heard so far."""

    def hear(self, speech: SpeechSteps) -> None:
        """Take in more speech. It follows the steps heard, or begins at an earlier step and overwrites later ones."""

    def end(self) -> None:
        """Learn that no more speech follows, for kinds whose text depends on it; a second call does nothing."""

    def supposing(self, speech: Sequence[SpeechSteps]) -> AbstractContextManager[None]:
        """Hear speech, the last of the stream, for the time of a `with` block, and forget it at its end."""

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Predict the next token of each row from that many visible steps, without committing it."""

    def commit(self, row: int, token_id: int) -> None:
        """Append a token to a row, behind the past of its last attempt."""

    def rehearsal(self) -> AbstractContextManager[None]:
        """Forget, at the end of a `with` block, the tokens that it committed."""

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""

    def branch(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Return a decoder of fresh rows about the same speech."""


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]], *, checks: bool = False
) -> Decoder:
    """Return a decoder of the model's kind that has run the prompts and heard no speech.

    Args:
        graphs: of the bundle, by name.
        manifest: of the bundle.
        prompts: token ids of each row's whole prompt.
        checks: check the tokens of a rehearsal in the next one, several in one run; for bundles that score several.
    """
    module = module_of("bestow_edge.runtime.decoders", manifest.model.connector.kind)
    options = {"checks": True} if checks else {}  # the other kinds of connectors have no such bundles
    decoder: Decoder = module.open_decoder(graphs, manifest, prompts, **options)
    return decoder


def hear_all(decoder: Decoder, speech: Iterable[SpeechSteps]) -> None:
    """Let a decoder hear several chunks."""
    for steps in speech:
        decoder.hear(steps)
