"""Text side of one stream: the `adapter_step` and `llm_step` graphs with their caches in place, one row per text.

A token is tried as often as needed and committed once: trying writes its keys and values behind the committed ones, so
a token that is tried again with more speech overwrites itself. It knows tokens and visible steps, not policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.tensors import CACHE, MEMORY, NEW, NEXT, TensorSpec
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Array, Buffer, Device, Graph

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
    read_log_probs: Callable[[], Floats] = field(repr=False)
    read_alignment: Callable[[], Floats] = field(repr=False)

    @property
    def log_probs(self) -> Floats:
        """(vocab,) of every token; brought from the device when it is asked for."""
        return self.read_log_probs()

    @property
    def alignment(self) -> Floats:
        """(adapter_layers, steps + 1) cross-attention over the visible steps, mean over heads, the null frame last.

        Brought from the device when it is asked for.
        """
        return self.read_alignment()


class CachedGraph:
    """A graph whose inputs on the axis `capacity` are caches, filled with its outputs `new_...`."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self.runner = graph.runner()
        self.past_tokens = np.zeros(rows, dtype=np.int64)
        """(rows,) committed tokens; bound, so that the graph sees every change."""
        self._device = graph.device
        self._caches = {tensor.name: tensor for tensor in graph.spec.inputs if CAPACITY in tensor.axes}
        self._new = {NEW + name.removeprefix(CACHE): name for name in self._caches}
        self._rows = {name: _row_of(tensor) for name, tensor in self._caches.items()}
        self._buffers: dict[str, Buffer] = {}
        if self._caches:
            self.runner.bind({"past_tokens": self.past_tokens})
            self._allocate(FIRST_TOKENS)

    def run(self, feeds: Mapping[str, Buffer], num_tokens: int) -> Mapping[str, Buffer]:
        """Run new tokens and store their keys and values behind the committed ones of each row."""
        if self._caches:
            self._grow(int(self.past_tokens.max()) + num_tokens)
        self.runner.bind(feeds)
        out = self.runner.run()
        self._device.copy(
            (self._buffers[cache][(*at, ..., slice(past, past + num_tokens), slice(None))], out[name][at])
            for row, past in enumerate(self.past_tokens.tolist())
            for name, cache in self._new.items()
            for at in [(*self._rows[cache], row)]
        )
        return out

    def take_rows(self, rows: Ints) -> None:
        """Make row i a copy of what row `rows[i]` was."""
        self.past_tokens[:] = self.past_tokens[rows]
        if self._buffers:
            old = self._buffers
            self._allocate(next(iter(old.values())).shape[-2], keep=False)
            self._device.copy(
                (buffer[(*self._rows[name], row)], old[name][(*self._rows[name], source)])
                for name, buffer in self._buffers.items()
                for row, source in enumerate(rows.tolist())
            )

    def _grow(self, need: int) -> None:
        capacity = next(iter(self._buffers.values())).shape[-2]
        while capacity < need:
            capacity *= 2
            self._allocate(capacity)

    def _allocate(self, capacity: int, *, keep: bool = True) -> None:
        old = self._buffers if keep else {}
        self._buffers = self._device.zeros(self._caches.values(), capacity=capacity, batch=self.past_tokens.size)
        self._device.copy((self._buffers[name][..., : past.shape[-2], :], past) for name, past in old.items())
        self.runner.bind(self._buffers)


def _row_of(tensor: TensorSpec) -> tuple[slice, ...]:
    """Return what stands before a row in the index of a buffer."""
    return (slice(None),) * tensor.axes.index(BATCH)


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
        rows = len(prompts)
        self._device, self._state_specs = adapter.device, adapter.spec.states
        self.memory = empty_memory(adapter, manifest) if memory is None else memory
        self._bound_keys: Buffer | None = None  # of the memory, as it is bound now
        self._adapter, self._llm = CachedGraph(adapter, rows), CachedGraph(llm, rows)
        self._states = self._device.zeros(self._state_specs, batch=rows)
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
        out = self._run(self.queries[:, None], np.array(visible_steps, dtype=np.int64)[:, None])
        token_ids, log_probs = self._device.get(out["token_id"], out["log_prob"])
        scores = _Scores(self._device, out["logits"], out["alignment"])
        return [
            Attempt(
                int(token_ids[row]),
                float(log_probs[row]),
                partial(scores.log_probs, row),
                partial(scores.alignment, row, [*self.memory.slots_of(visible), -1]),
            )
            for row, visible in enumerate(visible_steps)
        ]

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        for count in (self._llm.past_tokens, self._adapter.past_tokens, self.num_tokens):
            count[row] += 1
        self._keep_states([row])
        self.queries[row] = token_id

    def take_rows(self, rows: Sequence[int]) -> None:
        """Make row i a copy of what row `rows[i]` was: caches, states and queries, in place."""
        order = np.array(rows, dtype=np.int64)
        for graph in (self._adapter, self._llm):
            graph.take_rows(order)
        self._states = self._take_states([(self._states, row) for row in rows])
        self._next_states = self._take_states([(self._next_states, row) for row in rows])
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

    def _run(self, tokens: Ints, visible: Ints) -> dict[str, Buffer]:
        """Run (rows, tokens); return what the LLM gives, and the attention (layers, rows, tokens, slots + 1)."""
        feeds: dict[str, Buffer] = {
            "token_ids": tokens,
            "visible_steps": visible,
            "written_steps": np.array([self.memory.written], dtype=np.int64),
        }
        if self._bound_keys is not self.memory.keys:  # the memory grew
            self._bound_keys = self.memory.keys
            feeds |= self.memory.inputs
        out = self._adapter.run(feeds | self._states, tokens.shape[1])
        self._next_states = {name: out[NEXT + name] for name in self._states}
        llm = self._llm.run({"inputs_embeds": out["inputs_embeds"]}, tokens.shape[1])
        return {**llm, "alignment": out["alignment"]}


def empty_memory(adapter: Graph, manifest: BundleManifest) -> SpeechMemory:
    """Return a speech memory where the adapter's graph reads it."""
    dtype = next(tensor.dtype for tensor in adapter.spec.inputs if tensor.name.startswith(MEMORY))
    return SpeechMemory(manifest.model.adapter, device=adapter.device, dtype=dtype)


class _Scores:
    """What one run said about every token and every step, brought from the device once, if anyone asks."""

    def __init__(self, device: Device, logits: Buffer, alignment: Buffer) -> None:
        self._device, self._logits, self._alignment = device, logits, alignment

    def log_probs(self, row: int) -> Floats:
        """Return (vocab,) log-probabilities."""
        logits: Floats = self._read_logits[row]
        shifted = logits - logits.max()
        log_probs: Floats = shifted - np.log(np.exp(shifted).sum())
        return log_probs

    def alignment(self, row: int, slots: list[int]) -> Floats:
        """Return (adapter_layers, slots) of the last token's attention."""
        alignment: Floats = self._read_alignment[:, row, -1, slots]
        return alignment

    @cached_property
    def _read_logits(self) -> Array:
        return self._device.get(self._logits)[0]

    @cached_property
    def _read_alignment(self) -> Array:
        return self._device.get(self._alignment)[0]
