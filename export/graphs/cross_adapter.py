"""Connector kind `cross_adapter` as graphs: `adapter_step`, from tokens and the speech memory to the LLM's embeddings.

The modules are the trained ones; only attention is written out, in two parts (cached and new), so that no cache is ever
joined or copied: the runtime stores the new keys and values in its own buffer. Tests compare it with the
whole-sequence forward pass.

Legend of shape comments: batch, tokens, memory (ring slots), capacity (text cache slots), heads, head_dim, width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.cross_adapter import adapter_spec
from bestow_edge.core.tensors import (
    BATCH,
    CAPACITY,
    PAST_TOKENS,
    SLOTS,
    TOKEN_IDS,
    TOKENS,
    VISIBLE_STEPS,
    WRITTEN_STEPS,
)
from bestow_edge.export.graphs.attention import hide, self_attend, stored_attend
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource, traced_from
from bestow_edge.export.graphs.llm import llm_source
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.cross_adapter import Adapter, AdapterLayer, by_step

SPEECH_WEIGHTS = ("connector.",)


class AdapterStep(nn.Module):
    """Token embedding and adapter as one function of new tokens, speech memory and state."""

    def __init__(self, model: SpeechModel, *, stored: bool = False) -> None:
        """Use the model's modules as they are; `stored` chooses `stored_attend` among text tokens."""
        super().__init__()
        self._stored = stored
        self.adapter = model.connector
        needed = self.adapter.config.residual or not self.adapter.config.own_embedding
        self.embedding: Any = model.llm.get_input_embeddings() if needed else None  # Any: transformers names no type
        for index, layer in enumerate(model.connector.layers):
            for name, tensor in zip(("null_key", "null_value"), layer.null(), strict=True):
                self.register_buffer(f"{name}_{index}", tensor.detach())

    def forward(
        self,
        token_ids: Tensor,
        visible_steps: Tensor,
        written_steps: Tensor,
        *buffers: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run new tokens; arguments and results are those of `bestow_edge.core.specs.cross_adapter.adapter_spec`."""
        config = self.adapter.config
        memory, state = buffers[: 2 * config.num_layers], buffers[2 * config.num_layers :]
        embeddings = None if self.embedding is None else self.embedding(token_ids)  # (batch, tokens, hidden)
        bypassed = (visible_steps == 0) & (config.prompt_mode == "bypass")  # (batch, tokens)
        x = self.adapter.embed(token_ids, embeddings, state[0] if config.positions else None)
        x, state_out = self._mix_lstm(x, *state) if config.text_mixer == "lstm" else (x, [])
        visible = visible_slots(visible_steps, written_steps, memory[0].shape[1])  # (batch, tokens, memory)
        alignment = []
        for index, layer in enumerate(self.adapter.layers):
            if config.text_mixer == "attention":
                past_tokens, *caches = state
                past = caches[2 * index], caches[2 * index + 1]
                mixed, *new = _self_attend(layer, x, None if self._stored else bypassed, past_tokens, past)
                x = x + mixed
                state_out += new
            null = getattr(self, f"null_key_{index}"), getattr(self, f"null_value_{index}")
            null_hidden = visible.any(-1, keepdim=True) & (config.null_frame == "alone")  # (batch, tokens, 1)
            mixed, weights = cross_attend(
                layer, x, (visible, ~null_hidden), memory[2 * index], memory[2 * index + 1], null
            )
            alignment.append(by_step(weights.mean(1), config.speech_parts))  # over heads: (batch, tokens, memory + 1)
            x = x + mixed
            x = x + layer.ffn(layer.norm_ffn(x))
        out = self.adapter.text_out(self.adapter.norm_out(x)) * (~bypassed[..., None]).to(x.dtype)
        return (embeddings + out if config.residual else out), torch.stack(alignment), *state_out

    def _mix_lstm(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, list[Tensor]]:
        mixed, (hidden, cell) = self.adapter.lstm(self.adapter.norm_lstm(x), (hidden, cell))
        return x + mixed, [hidden, cell]


def visible_slots(visible_steps: Tensor, written_steps: Tensor, num_slots: int) -> Tensor:
    """Return which slots of the ring each token sees.

    Slot s holds the latest step a < written with a mod num_slots = s; a negative a was never written.

    Args:
        visible_steps: (batch, tokens) int64, counted from the first step of the stream.
        written_steps: (1,) int64, steps ever written.
        num_slots: slots of the ring.

    Returns:
        (batch, tokens, num_slots) bool.
    """
    last = written_steps - 1  # (1,)
    slots = torch.arange(num_slots, device=last.device)
    divisor = torch.ones_like(slots).sum()  # a tensor: the exporter cannot divide by a symbolic size
    step = last - torch.remainder(last - slots + divisor, divisor)  # (num_slots,); never of a negative number
    return (step >= 0) & (step < visible_steps[..., None])


def _self_attend(
    layer: AdapterLayer, x: Tensor, bypassed: Tensor | None, past_tokens: Tensor, past: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the cached tokens and, causally, to the new ones; return the mix and the new keys and values.

    `bypassed` (batch, tokens) are seen by themselves alone; None chooses `stored_attend`, which knows no such tokens.
    """
    attention = layer.self_attention
    x = layer.norm_self(x)
    query = attention.split(attention.query(x)) * past[0].shape[-1] ** -0.5
    keys, values = attention.keys_values(x)  # (batch, heads, tokens, head_dim)
    if bypassed is None:
        return attention.join(stored_attend(query, (keys, values), past, past_tokens)), keys, values
    position = torch.arange(x.shape[1], device=x.device)
    own = position[:, None] == position
    causal = (position[:, None] >= position) & (~bypassed[:, None] | own)  # (batch, tokens, tokens)
    mixed = self_attend(query, (keys, values), past, past_tokens, causal[:, None])
    return attention.join(mixed), keys, values


def cross_attend(
    layer: AdapterLayer,
    x: Tensor,
    visible: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    null: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Attend to the visible speech and the null frame; return the mix and (batch, heads, tokens, memory * parts + 1).

    `visible` are the slots, (batch, tokens, memory) bool, and the null frame, (batch, tokens, 1) bool. `keys` and
    `values` are (heads, memory, parts * head_dim), the same for every row of the batch.
    """
    attention, (null_key, null_value) = layer.cross_attention, null
    heads, head_dim = null_key.shape[1], null_key.shape[3]
    parts = keys.shape[-1] // head_dim
    keys, values = (part.reshape(heads, -1, head_dim) for part in (keys, values))  # (heads, memory * parts, head_dim)
    slots = visible[0].repeat_interleave(parts, dim=-1) if parts > 1 else visible[0]
    query = attention.split(attention.query(layer.norm_cross(x))) * head_dim**-0.5
    heard = hide(query @ keys.transpose(1, 2), slots[:, None])
    nothing = hide(query @ null_key.transpose(2, 3), visible[1][:, None])
    weights = torch.cat([heard, nothing], dim=-1).softmax(-1)
    memory = keys.shape[1]
    mixed = weights[..., :memory] @ values + weights[..., memory:] * null_value
    return attention.join(mixed), weights


class SpeechSide(nn.Module):
    """The adapter's projections of speech, which run once for each step."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.speech_in = adapter.speech_in
        attentions = [layer.cross_attention for layer in adapter.layers]
        self.keys = nn.ModuleList(attention.key for attention in attentions)
        self.values = nn.ModuleList(attention.value for attention in attentions)
        self._split, self._take_apart, self._slot_width = (
            attentions[0].split,
            adapter.take_apart,
            adapter.config.slot_width,
        )

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Project (batch, steps, width) to keys and values, each (layers, batch, heads, steps, slot_width)."""
        speech = self.speech_in(self._take_apart(steps))
        keys, values = ([self._split(project(speech)) for project in part] for part in (self.keys, self.values))
        return self._by_step(torch.stack(keys)), self._by_step(torch.stack(values))

    def _by_step(self, parts: Tensor) -> Tensor:
        """Put the parts of a step side by side: the last two axes become steps and slot_width."""
        return parts.reshape(*parts.shape[:3], -1, self._slot_width)


def speech_side(model: SpeechModel) -> SpeechSide:
    """Return the module that ends the encoder's graph, see `bestow_edge.export.graphs.base.speech_side`."""
    return SpeechSide(model.connector)


def sources(config: ModelConfig, *, several: bool = False) -> tuple[GraphSource, ...]:
    """Return the sources of `adapter_step` and `llm_step`: compared at single tokens, prompts and several rows.

    With `several`, they compute the same bits for a token whatever is new beside it, see `scoring_several`.
    """
    shapes = [(1, 1, 128, 64), (1, 7, 128, 64), (1, 1, 256, 128), (2, 4, 8, 9)]

    def make_lawful(feeds: Feeds, case: Case, rng: np.random.Generator) -> None:
        if PAST_TOKENS in feeds:
            past = min(case[CAPACITY], config.max_text_tokens) - case[TOKENS]
            feeds[PAST_TOKENS] += past - np.arange(case[BATCH])
        feeds[TOKEN_IDS] += rng.integers(0, config.llm["vocab_size"], feeds[TOKEN_IDS].shape)
        feeds[WRITTEN_STEPS] += case[SLOTS] + 11  # the ring has wrapped
        feeds[VISIBLE_STEPS] += case[SLOTS] // 2 + np.arange(case[TOKENS])

    adapter = GraphSource(
        spec=adapter_spec(config),
        weights=("connector.", "llm."),
        build=traced_from(partial(AdapterStep, stored=several)),
        sizes=tuple(dict(zip((BATCH, TOKENS, SLOTS, CAPACITY), shape, strict=True)) for shape in shapes),
        make_lawful=make_lawful,
        largest_int4_block=32,
    )
    return adapter, llm_source(config, several=several)
