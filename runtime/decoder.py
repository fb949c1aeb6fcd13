"""Text side of one stream: the `adapter_step` and `llm_step` graphs with their caches in place.

A token is tried as often as needed and committed once: trying writes its keys and values behind the committed ones, so
a token that is tried again with more speech overwrites itself. It knows tokens and visible steps, not policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.bundle import BundleManifest
from bestow_edge.graphs import NEXT
from bestow_edge.runtime.encoder_stream import SpeechSteps
from bestow_edge.runtime.graph import Array, Graph, zeros
from bestow_edge.runtime.memory import SpeechMemory

FIRST_TOKENS = 64  # slots a text cache begins with; it grows by doubling
CAPACITY = "capacity"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the model would write next."""

    token_id: int
    log_prob: float
    """Natural logarithm of its probability."""
    alignment: npt.NDArray[np.float32]
    """(slots + 1,) cross-attention of the last adapter layer, mean over heads; the last entry is the null frame."""


class CachedGraph:
    """A graph whose inputs on the axis `capacity` are caches, filled with its outputs `new_...`."""

    def __init__(self, graph: Graph) -> None:
        self.runner = graph.runner()
        self._caches = {tensor.name: tensor for tensor in graph.spec.inputs if CAPACITY in tensor.axes}
        self._new = {"new_" + name.removeprefix("cache_"): name for name in self._caches}
        self._arrays: dict[str, Array] = {}
        self.past_tokens = np.zeros(1, dtype=np.int64)
        if self._caches:
            self.runner.bind({"past_tokens": self.past_tokens})
            self._allocate(FIRST_TOKENS)

    def run(self, feeds: dict[str, Array], num_tokens: int) -> dict[str, Array]:
        """Run new tokens and store their keys and values behind the committed ones."""
        past = int(self.past_tokens[0])
        if self._caches:
            self._grow(past + num_tokens)
        self.runner.bind(feeds)
        out = self.runner.run()
        for name, cache in self._new.items():
            self._arrays[cache][..., past : past + num_tokens, :] = out[name]
        return out

    def _grow(self, need: int) -> None:
        capacity = next(iter(self._arrays.values())).shape[-2]
        while capacity < need:
            capacity *= 2
            self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        old = self._arrays
        self._arrays = {name: zeros(tensor, capacity=capacity) for name, tensor in self._caches.items()}
        for name, array in old.items():
            self._arrays[name][..., : array.shape[-2], :] = array
        self.runner.bind(self._arrays)


class TextDecoder:
    """Prompt, answer so far and speech memory of one segment."""

    def __init__(self, adapter: Graph, llm: Graph, manifest: BundleManifest, prompt: Sequence[int]) -> None:
        """Run the prompt up to its last token, which is the first query.

        Args:
            adapter: the `adapter_step` graph.
            llm: the `llm_step` graph.
            manifest: the bundle's manifest.
            prompt: token ids of the whole prompt.
        """
        self.memory = SpeechMemory(manifest.model.adapter)
        self._adapter, self._llm = CachedGraph(adapter), CachedGraph(llm)
        self._states = {tensor.name: zeros(tensor) for tensor in adapter.spec.states}
        self._next_states = self._states
        self._bind_memory()
        self.query = prompt[-1]
        self.num_tokens = 0
        if len(prompt) > 1:
            self._run(prompt[:-1], visible=0)
            self._advance(len(prompt) - 1, through_adapter=manifest.model.adapter.prompt_mode == "null_frame")

    def hear(self, speech: SpeechSteps) -> None:
        """Add encoder steps to the memory."""
        if self.memory.write(speech):
            self._bind_memory()

    def attempt(self, visible_steps: int) -> Attempt:
        """Predict the token after the query when it sees that many speech steps; commits nothing."""
        logits, alignment = self._run([self.query], visible_steps)
        token_id = int(logits.argmax())
        shifted = logits - logits.max()
        return Attempt(token_id, float(shifted[token_id] - np.log(np.exp(shifted).sum())), alignment)

    def commit(self, token_id: int) -> None:
        """Make the last attempt's query part of the past and `token_id` the next query."""
        self._advance(1, through_adapter=True)
        self.query = token_id

    def _advance(self, num_tokens: int, *, through_adapter: bool) -> None:
        self._llm.past_tokens += num_tokens
        self.num_tokens += num_tokens
        if through_adapter:
            self._adapter.past_tokens += num_tokens
            self._states = self._next_states

    def _bind_memory(self) -> None:
        self._adapter.runner.bind({"memory_keys": self.memory.keys, "memory_values": self.memory.values})

    def _run(self, tokens: Sequence[int], visible: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return logits (vocab,) and alignment (slots + 1,) of the last token."""
        feeds: dict[str, Array] = {
            "token_ids": np.array([tokens], dtype=np.int64),
            "visible_steps": np.full((1, len(tokens)), visible, dtype=np.int64),
            "written_steps": np.array([self.memory.written], dtype=np.int64),
        }
        out = self._adapter.run(feeds | self._states, len(tokens))
        self._next_states = {name: out[NEXT + name] for name in self._states}
        logits = self._llm.run({"inputs_embeds": out["inputs_embeds"]}, len(tokens))["logits"]
        return logits[0], out["alignment"][-1, 0, -1]
