"""Connector kind `gated_layers`: the `token_embedding` and `llm_step` graphs, whose layers read the speech memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.specs.gated_layers import attentions
from bestow_edge.core.specs.llm import EMBEDDING
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import (
    ALIGNMENT,
    INPUTS_EMBEDS,
    LOGITS,
    MEMORY,
    TOKEN_IDS,
    VISIBLE_STEPS,
    WRITTEN_STEPS,
)
from bestow_edge.runtime.decoders.base import Attempt, hear_all
from bestow_edge.runtime.decoders.cached_graph import CachedGraph, Ints
from bestow_edge.runtime.decoders.scores import OnDevice, alignment_of, best_tokens, log_probs
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps


class GatedLayersDecoder:
    """The decoder of LLMs with gated cross-attentions: the texts of a segment share its speech memory."""

    def __init__(self, graphs: Mapping[str, Graph], prompts: Sequence[Sequence[int]], memory: SpeechMemory) -> None:
        """Run the prompts up to their last tokens, which are the first queries.

        Args:
            graphs: of the bundle, by name.
            prompts: token ids of each row's whole prompt.
            memory: the speech heard so far.
        """
        self._graphs, self._device = graphs, graphs[LLM].device
        self.memory = memory
        self._bound_keys: Buffer | None = None  # of the memory, as it is bound now
        self._embedding, self._llm = graphs[EMBEDDING].runner(), CachedGraph(graphs[LLM], len(prompts))
        self.queries = np.array([prompt[-1] for prompt in prompts], dtype=np.int64)
        """(rows,) the token each row goes on from."""
        self._prefill([list(prompt[:-1]) for prompt in prompts])

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return self.queries.size

    @property
    def num_tokens(self) -> Ints:
        """(rows,) committed tokens, prompt included."""
        return self._llm.past_tokens

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self.memory.written

    def hear(self, speech: SpeechSteps) -> None:
        """See `Decoder`."""
        self.memory.write(speech)

    def end(self) -> None:
        """Nothing to do: what is visible does not depend on the end."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        first = min((steps.start for steps in speech), default=self.heard)
        snapshot = self.memory.snapshot(first, max((steps.end for steps in speech), default=self.heard))
        hear_all(self, speech)
        try:
            yield
        finally:
            self.memory.restore(snapshot)

    def branch(self, prompts: Sequence[Sequence[int]]) -> GatedLayersDecoder:
        """See `Decoder`."""
        return GatedLayersDecoder(self._graphs, prompts, self.memory)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`; a row's next token follows its query."""
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

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        self._llm.past_tokens[row] += 1
        self.queries[row] = token_id

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        order = np.array(rows, dtype=np.int64)
        self._llm.take_rows(order)
        self.queries = self.queries[order]

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        queries, past = self.queries.copy(), self._llm.past_tokens.copy()
        try:
            yield
        finally:
            self.queries, self._llm.past_tokens[:] = queries, past

    def _prefill(self, prompts: list[list[int]]) -> None:
        """Run whole prompts at once; they see no speech. Shorter ones are followed by tokens to overwrite."""
        longest = max(map(len, prompts))
        ids = np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts], dtype=np.int64)
        if longest:
            self._run(ids, np.zeros_like(ids))
        self._llm.past_tokens[:] = [len(prompt) for prompt in prompts]

    def _run(self, tokens: Ints, visible: Ints) -> Mapping[str, Buffer]:
        """Run (rows, tokens); return the outputs of the LLM."""
        self._embedding.bind({TOKEN_IDS: tokens})
        feeds: dict[str, Buffer] = {
            INPUTS_EMBEDS: self._embedding.run()[INPUTS_EMBEDS],
            VISIBLE_STEPS: visible,
            WRITTEN_STEPS: np.array([self.memory.written], dtype=np.int64),
        }
        if self._bound_keys is not self.memory.keys:  # the memory grew
            self._bound_keys = self.memory.keys
            feeds |= self.memory.inputs
        return self._llm.run(feeds, tokens.shape[1])


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]
) -> GatedLayersDecoder:
    """Return a decoder with an empty speech memory on the device of the LLM's graph."""
    dtype = next(tensor.dtype for tensor in graphs[LLM].spec.inputs if tensor.name.startswith(MEMORY))
    memory = SpeechMemory(attentions(manifest.model), device=graphs[LLM].device, dtype=dtype)
    return GatedLayersDecoder(graphs, prompts, memory)
