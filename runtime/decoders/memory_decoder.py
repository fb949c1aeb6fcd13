"""What decoders over a speech memory share: kinds `cross_adapter` and `gated_layers`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import ALIGNMENT, LOGITS, VISIBLE_STEPS, WRITTEN_STEPS
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.decoders.cached_graph import CachedGraph, Ints
from bestow_edge.runtime.decoders.rehearsed import Rehearsed
from bestow_edge.runtime.decoders.scores import OnDevice, alignment_of, best_tokens, log_probs
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps


class MemoryDecoder(ABC):
    """The texts of a segment share its speech memory."""

    def __init__(self, graphs: Mapping[str, Graph], prompts: Sequence[Sequence[int]], memory: SpeechMemory) -> None:
        """Take the last tokens of the prompts as the first queries; the subclass runs the tokens before them.

        Args:
            graphs: of the bundle, by name.
            prompts: token ids of each row's whole prompt.
            memory: the speech heard so far.
        """
        self._graphs, self._device = graphs, graphs[LLM].device
        self.memory = memory
        self._bound_keys: Buffer | None = None  # of the memory, as it is bound now
        self._llm = CachedGraph(graphs[LLM], len(prompts))
        self.queries = np.array([prompt[-1] for prompt in prompts], dtype=np.int64)
        """(rows,) the token each row goes on from."""
        self._rehearsed = Rehearsed()

    @property
    def num_tokens(self) -> Ints:
        """(rows,) committed tokens, prompt included."""
        return self._llm.past_tokens

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return self.queries.size

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self.memory.written

    def hear(self, speech: SpeechSteps) -> None:
        """See `Decoder`."""
        self._rehearsed.forget()
        self.memory.write(speech)

    def end(self) -> None:  # noqa: B027 - a subclass need not add to it
        """Nothing to do: what is visible does not depend on the end."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        first = min((steps.start for steps in speech), default=self.heard)
        snapshot = self.memory.snapshot(first, max((steps.end for steps in speech), default=self.heard))
        for steps in speech:
            self.hear(steps)
        try:
            yield
        finally:
            self._rehearsed.forget()
            self.memory.restore(snapshot)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`; a row's next token follows its query."""
        key = self.num_tokens.tobytes(), self.queries.tobytes(), tuple(visible_steps)
        return self._rehearsed.attempt(key, partial(self._predict, visible_steps))

    def _predict(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Run the queries."""
        out = self._run(self.queries[:, None], np.array(visible_steps, dtype=np.int64)[:, None])
        best = best_tokens(self._device, out, self._graphs[LLM].spec)
        logits, alignment = OnDevice(self._device, out[LOGITS]), OnDevice(self._device, out[ALIGNMENT])
        return [
            Attempt(
                *best[row],
                visible,
                partial(log_probs, logits, row),
                partial(alignment_of, alignment, row, [*self.memory.slots_of(visible), -1]),
            )
            for row, visible in enumerate(visible_steps)
        ]

    def _speech_feeds(self, visible: Ints) -> dict[str, Buffer]:
        """Return the inputs about speech, the memory among them if it must be bound again because it grew."""
        feeds: dict[str, Buffer] = {
            VISIBLE_STEPS: visible,
            WRITTEN_STEPS: np.array([self.memory.written], dtype=np.int64),
        }
        if self._bound_keys is not self.memory.keys:
            self._bound_keys = self.memory.keys
            feeds |= self.memory.inputs
        return feeds

    @abstractmethod
    def _run(self, tokens: Ints, visible: Ints) -> Mapping[str, Buffer]:
        """Run (rows, tokens); return the LLM's outputs and the attention (layers, rows, tokens, slots + 1)."""
