"""Connector kind `cross_adapter`: the `adapter_step` and `llm_step` graphs with their caches in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.cross_adapter import cross_adapter
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import ALIGNMENT, INPUTS_EMBEDS, MEMORY, NEXT, SCORED_TOKENS, TOKEN_IDS
from bestow_edge.runtime.decoders.cached_graph import CachedGraph, Ints
from bestow_edge.runtime.decoders.memory_decoder import MemoryDecoder
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Buffer, Graph


class AdapterDecoder(MemoryDecoder):
    """The decoder of BESTOW's adapter."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        memory: SpeechMemory,
        *,
        checks: bool = False,
    ) -> None:
        """Run the prompts up to their last tokens; see `MemoryDecoder`. `config` is that of the model."""
        super().__init__(graphs, prompts, memory, checks=checks)
        self._several = SCORED_TOKENS in graphs[LLM].spec.input_names
        rows, adapter = len(prompts), graphs[ADAPTER]
        self._config, self._state_specs = config, adapter.spec.states
        self._adapter = CachedGraph(adapter, rows)
        self._states = self._device.zeros(self._state_specs, batch=rows)
        self._next_states = self._states
        self._through_adapter = cross_adapter(config).prompt_mode == "null_frame"
        self._prefill([list(prompt[:-1]) for prompt in prompts])

    def branch(self, prompts: Sequence[Sequence[int]]) -> AdapterDecoder:
        """See `Decoder`."""
        return AdapterDecoder(self._graphs, self._config, prompts, self.memory, checks=self._checks)

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        self._take_guess(row, token_id)
        for count in (self._llm.past_tokens, self._adapter.past_tokens):
            count[row] += 1
        self._keep_states([row])
        self.queries[row] = token_id

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`: caches, states and queries, in place."""
        self._rehearsed.forget()
        order = np.array(rows, dtype=np.int64)
        for graph in (self._adapter, self._llm):
            graph.take_rows(order)
        self._states = self._take_states([(self._states, row) for row in rows])
        self._next_states = self._take_states([(self._next_states, row) for row in rows])
        self.queries, self._begins = self.queries[order], self._begins[order]
        self._guessed = [list(self._guessed[row]) for row in rows]

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        kept = self._states, self.queries.copy()
        pasts = self._adapter.past_tokens.copy(), self._llm.past_tokens.copy()
        self._followed = self._only_row
        remembered = nullcontext() if self._states else self._rehearsed.rehearsal()  # a state is of its last run alone
        try:
            with remembered:
                yield
        finally:
            self._states, self.queries = kept
            self._adapter.past_tokens[:], self._llm.past_tokens[:] = pasts

    def _prefill(self, prompts: list[list[int]]) -> None:
        """Run whole prompts at once; with recurrent layers token by token: their states do not forget padding."""
        longest = max(map(len, prompts))
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        ids = np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts], dtype=np.int64)
        width = 1 if self._states else max(1, longest)
        for start in range(0, longest, width):
            part = ids[:, start : start + width]
            self._run(part, np.zeros_like(part), scored=1)
            ran = np.clip(lengths - start, 0, width)
            self._llm.past_tokens += ran
            if self._through_adapter:
                self._adapter.past_tokens += ran
            self._keep_states(np.flatnonzero(ran).tolist())

    def _keep_states(self, rows: Sequence[int]) -> None:
        """Take over the recurrent states of the last run in some rows."""
        if not self._states:
            return
        sources = [self._next_states if row in rows else self._states for row in range(self.rows)]
        self._states = self._take_states([(source, row) for row, source in enumerate(sources)])

    def _take_states(self, rows: Sequence[tuple[Mapping[str, Buffer], int]]) -> dict[str, Buffer]:
        """Return recurrent states whose row i is a row of others."""
        states = self._device.zeros(self._state_specs, batch=self.rows)
        self._device.copy(
            (states[name][:, row], source[name][:, taken])
            for name in states
            for row, (source, taken) in enumerate(rows)
        )
        return states

    def _run(self, tokens: Ints, visible: Ints, scored: int | None = None) -> dict[str, Buffer]:
        """Run (rows, tokens); return the LLM's outputs and the attention (layers, rows, tokens, slots + 1).

        `scored` of the last tokens are scored, all of them if it is None, by graphs that score several.
        """
        feeds = {TOKEN_IDS: tokens} | self._speech_feeds(visible)
        out = self._adapter.run(feeds | self._states, tokens.shape[1])
        self._next_states = {name: out[NEXT + name] for name in self._states}
        into_llm = {INPUTS_EMBEDS: out[INPUTS_EMBEDS]}
        if self._several:
            into_llm[SCORED_TOKENS] = np.arange(tokens.shape[1], dtype=np.int64)[-(scored or tokens.shape[1]) :]
        llm = self._llm.run(into_llm, tokens.shape[1])
        return {**llm, ALIGNMENT: out[ALIGNMENT]}


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]], *, checks: bool = False
) -> AdapterDecoder:
    """Return a decoder with an empty speech memory on the device of the adapter's graph; see `MemoryDecoder`."""
    adapter, config = graphs[ADAPTER], manifest.model
    dtype = next(tensor.dtype for tensor in adapter.spec.inputs if tensor.name.startswith(MEMORY))
    memory = SpeechMemory(cross_adapter(config), device=adapter.device, dtype=dtype)
    return AdapterDecoder(graphs, config, prompts, memory, checks=checks)
