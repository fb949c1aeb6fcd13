"""Connector kind `gated_layers`: the `token_embedding` and `llm_step` graphs, whose layers read the speech memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.specs.gated_layers import attentions
from bestow_edge.core.specs.llm import EMBEDDING
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import INPUTS_EMBEDS, MEMORY, TOKEN_IDS
from bestow_edge.runtime.decoders.cached_graph import Ints
from bestow_edge.runtime.decoders.memory_decoder import MemoryDecoder
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Buffer, Graph


class GatedLayersDecoder(MemoryDecoder):
    """The decoder of LLMs with gated cross-attentions."""

    def __init__(self, graphs: Mapping[str, Graph], prompts: Sequence[Sequence[int]], memory: SpeechMemory) -> None:
        """Run the prompts up to their last tokens; see `MemoryDecoder`."""
        super().__init__(graphs, prompts, memory)
        self._embedding = graphs[EMBEDDING].runner()
        self._prefill([list(prompt[:-1]) for prompt in prompts])

    def branch(self, prompts: Sequence[Sequence[int]]) -> GatedLayersDecoder:
        """See `Decoder`."""
        return GatedLayersDecoder(self._graphs, prompts, self.memory)

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        self._llm.past_tokens[row] += 1
        self.queries[row] = token_id

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        self._rehearsed.forget()
        order = np.array(rows, dtype=np.int64)
        self._llm.take_rows(order)
        self.queries = self.queries[order]

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        queries, past = self.queries.copy(), self._llm.past_tokens.copy()
        try:
            with self._rehearsed.rehearsal():
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
        feeds = {INPUTS_EMBEDS: self._embedding.run()[INPUTS_EMBEDS]} | self._speech_feeds(visible)
        return self._llm.run(feeds, tokens.shape[1])


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]
) -> GatedLayersDecoder:
    """Return a decoder with an empty speech memory on the device of the LLM's graph."""
    dtype = next(tensor.dtype for tensor in graphs[LLM].spec.inputs if tensor.name.startswith(MEMORY))
    memory = SpeechMemory(attentions(manifest.model), device=graphs[LLM].device, dtype=dtype)
    return GatedLayersDecoder(graphs, prompts, memory)
