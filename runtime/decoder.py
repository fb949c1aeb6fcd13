"""Text side of one stream: the `adapter_step` and `llm_step` graphs with their caches in place, one row per text.

A token is tried as often as needed and committed once: trying writes its keys and values behind the committed ones, so
a token that is tried again with more speech overwrites itself. It knows tokens and visible steps, not policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bestow_edge.bundle import BundleManifest
from bestow_edge.graphs import CACHE, NEW, NEXT
from bestow_edge.runtime.graph import Array, Graph, zeros
from bestow_edge.runtime.memory import SpeechMemory

FIRST_TOKENS = 64  # slots a text cache begins with; it grows by doubling
CAPACITY, BATCH = "capacity", "batch"
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the model would write next in one row."""

    token_id: int
    log_prob: float
    """Natural logarithm of its probability."""
    log_probs: Floats = field(repr=False)
    """(vocab,) of every token."""
    alignment: Floats = field(repr=False)
    """(adapter_layers, steps + 1) cross-attention over the visible steps, mean over heads, the null frame last."""


class CachedGraph:
    """A graph whose inputs on the axis `capacity` are caches, filled with its outputs `new_...`."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self.runner = graph.runner()
        self.past_tokens = np.zeros(rows, dtype=np.int64)
        """(rows,) committed tokens; bound, so that the graph sees every change."""
        self._caches = {tensor.name: tensor for tensor in graph.spec.inputs if CAPACITY in tensor.axes}
        self._new = {NEW + name.removeprefix(CACHE): name for name in self._caches}
        self._axes = {name: tensor.axes.index(BATCH) for name, tensor in self._caches.items()}
        self._arrays: dict[str, Array] = {}
        if self._caches:
            self.runner.bind({"past_tokens": self.past_tokens})
            self._allocate(FIRST_TOKENS)

    def run(self, feeds: dict[str, Array], num_tokens: int) -> dict[str, Array]:
        """Run new tokens and store their keys and values behind the committed ones of each row."""
        if self._caches:
            self._grow(int(self.past_tokens.max()) + num_tokens)
        self.runner.bind(feeds)
        out = self.runner.run()
        for name, cache in self._new.items():
            axis = self._axes[cache]
            rows = zip(
                np.moveaxis(self._arrays[cache], axis, 0),
                np.moveaxis(out[name], axis, 0),
                self.past_tokens,
                strict=True,
            )
            for buffer, new, past in rows:
                buffer[..., past : past + num_tokens, :] = new
        return out

    def take_rows(self, rows: Ints) -> None:
        """Make row i a copy of what row `rows[i]` was, in place."""
        self.past_tokens[:] = self.past_tokens[rows]
        for name, array in self._arrays.items():
            array[:] = np.take(array, rows, axis=self._axes[name])

    def _grow(self, need: int) -> None:
        capacity = next(iter(self._arrays.values())).shape[-2]
        while capacity < need:
            capacity *= 2
            self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        old = self._arrays
        sizes = {CAPACITY: capacity, BATCH: self.past_tokens.size}
        self._arrays = {name: zeros(tensor, **sizes) for name, tensor in self._caches.items()}
        for name, array in old.items():
            self._arrays[name][..., : array.shape[-2], :] = array
        self.runner.bind(self._arrays)


class TextDecoder:
    """Prompts and answers so far of the texts about one segment, which share its speech memory."""

    def __init__(
        self,
        adapter: Graph,
        llm: Graph,
        manifest: BundleManifest,
        prompts: Sequence[Sequence[int]],
        memory: SpeechMemory | None = None,
    ) -> None:
        """Run the prompts up to their last tokens, which are the first queries.

        Args:
            adapter: the `adapter_step` graph.
            llm: the `llm_step` graph.
            manifest: the bundle's manifest.
            prompts: token ids of each row's whole prompt.
            memory: speech heard already; None begins an empty one.
        """
        self.memory = SpeechMemory(manifest.model.adapter) if memory is None else memory
        rows = len(prompts)
        self._adapter, self._llm = CachedGraph(adapter, rows), CachedGraph(llm, rows)
        self._states = {tensor.name: zeros(tensor, batch=rows) for tensor in adapter.spec.states}
        self._next_states = self._states
        self.queries = np.array([prompt[-1] for prompt in prompts], dtype=np.int64)
        """(rows,) the token each row goes on from."""
        self.num_tokens = np.zeros(rows, dtype=np.int64)
        """(rows,) committed tokens, prompt included."""
        self._through_adapter = manifest.model.adapter.prompt_mode == "null_frame"
        self._prefill([list(prompt[:-1]) for prompt in prompts])

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return self.queries.size

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Predict the token after each row's query when it sees that many speech steps; commits nothing."""
        logits, alignment = self._run(self.queries[:, None], np.array(visible_steps, dtype=np.int64)[:, None])
        return [self._attempt(logits[row], alignment[:, row, -1], visible) for row, visible in enumerate(visible_steps)]

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        for count in (self._llm.past_tokens, self._adapter.past_tokens, self.num_tokens):
            count[row] += 1
        self._keep_states(np.arange(self.rows) == row)
        self.queries[row] = token_id

    def take_rows(self, rows: Sequence[int]) -> None:
        """Make row i a copy of what row `rows[i]` was: caches, states and queries, in place."""
        order = np.array(rows, dtype=np.int64)
        for graph in (self._adapter, self._llm):
            graph.take_rows(order)
        self._states = {name: np.take(state, order, axis=1) for name, state in self._states.items()}
        self._next_states = {name: np.take(state, order, axis=1) for name, state in self._next_states.items()}
        self.queries, self.num_tokens = self.queries[order], self.num_tokens[order]

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Forget, at the end of the block, everything that was committed in it."""
        kept = self._states, self.queries.copy(), self.num_tokens.copy()
        pasts = self._adapter.past_tokens.copy(), self._llm.past_tokens.copy()
        try:
            yield
        finally:
            self._states, self.queries, self.num_tokens = kept
            self._adapter.past_tokens[:], self._llm.past_tokens[:] = pasts

    def _attempt(self, logits: Floats, alignment: Floats, visible: int) -> Attempt:
        shifted = logits - logits.max()
        log_probs: Floats = shifted - np.log(np.exp(shifted).sum())
        token_id = int(logits.argmax())
        steps = alignment[:, [*self.memory.slots_of(visible), -1]]  # (adapter_layers, steps + 1)
        return Attempt(token_id, float(log_probs[token_id]), log_probs, steps)

    def _prefill(self, prompts: list[list[int]]) -> None:
        """Run whole prompts at once; with recurrent layers token by token: their states do not forget padding."""
        longest = max(map(len, prompts))
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        ids = np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts], dtype=np.int64)
        width = 1 if self._states else max(1, longest)
        for start in range(0, longest, width):
            part = ids[:, start : start + width]
            self._run(part, np.zeros_like(part))
            ran = np.clip(lengths - start, 0, width)
            self._llm.past_tokens += ran
            self.num_tokens += ran
            if self._through_adapter:
                self._adapter.past_tokens += ran
            self._keep_states(ran > 0)

    def _keep_states(self, rows: npt.NDArray[np.bool_]) -> None:
        """Take over the recurrent states of the last run in some rows."""
        chosen = rows[:, None]
        self._states = {name: np.where(chosen, self._next_states[name], state) for name, state in self._states.items()}

    def _run(self, tokens: Ints, visible: Ints) -> tuple[Floats, Floats]:
        """Run (rows, tokens); return logits (rows, vocab) and attention (layers, rows, tokens, slots + 1)."""
        feeds: dict[str, Array] = {
            "token_ids": tokens,
            "visible_steps": visible,
            "written_steps": np.array([self.memory.written], dtype=np.int64),
            "memory_keys": self.memory.keys,
            "memory_values": self.memory.values,
        }
        out = self._adapter.run(feeds | self._states, tokens.shape[1])
        self._next_states = {name: out[NEXT + name] for name in self._states}
        logits = self._llm.run({"inputs_embeds": out["inputs_embeds"]}, tokens.shape[1])["logits"]
        return logits, out["alignment"]
