"""Connector kind `cross_layers` as a graph: `decoder_step`, one step of Whisper's decoder.

The modules are transformers' own; attention is written out, so that no cache is ever joined or copied and the rows of a
batch share the speech. Tests compare it with transformers' own forward pass.

Legend of shape comments: batch, tokens, positions (of speech, 20 ms), capacity (text cache slots), heads, head_dim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.cross_layers import specs
from bestow_edge.core.tensors import BATCH, CAPACITY, PAST_TOKENS, POSITIONS, TOKEN_IDS, TOKENS
from bestow_edge.export.graphs.attention import self_attend
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource, traced_from
from bestow_edge.export.graphs.llm import best_token
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.cross_layers import suppress

SPEECH_WEIGHTS = ("llm.model.decoder.layers.",)
LARGEST_BLOCK = 32  # in int8 half the divergence of blocks of 128, for 0.7 ms of 6.2 more a token
Untyped = Any  # modules of transformers, which have no types


class DecoderStep(nn.Module):
    """Token embedding, decoder and language-model head as one function of new tokens, speech and caches."""

    barred: Tensor  # (vocab,) bool

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        llm: Untyped = model.llm
        self.decoder, self.head = llm.model.decoder, llm.get_output_embeddings()
        self.alignment_heads = model.connector.config.alignment_heads
        self.languages = list(model.connector.config.languages.values())
        self.register_buffer("barred", model.connector.barred)

    def forward(self, token_ids: Tensor, past_tokens: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        """Run new tokens; arguments and results are those of `bestow_edge.core.specs.cross_layers.specs`."""
        layers = len(self.decoder.layers)
        memory, caches = buffers[: 2 * layers], buffers[2 * layers :]
        position = torch.arange(token_ids.shape[1], device=token_ids.device)
        causal = position[:, None] >= position  # (tokens, tokens)
        places = self.decoder.embed_positions.weight[past_tokens[:, None] + position]
        x = self.decoder.embed_tokens(token_ids) + places  # (batch, tokens, width)
        new, heads = [], []
        for index, layer in enumerate(self.decoder.layers):
            own_keys, own_values = caches[2 * index : 2 * index + 2]
            attention, own = layer.self_attn, layer.self_attn_layer_norm(x)
            query, keys, values = (_split(attention, part(own)) for part in _projections(attention))
            mixed = self_attend(query * attention.scaling, (keys, values), (own_keys, own_values), past_tokens, causal)
            x = x + _join(attention, mixed)
            mixed, weights = _cross_attend(
                layer.encoder_attn, layer.encoder_attn_layer_norm(x), *memory[2 * index : 2 * index + 2]
            )
            x = x + mixed
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
            new += [keys, values]
            heads += [weights[:, head] for found, head in self.alignment_heads if found == index]
        scores = self.head(self.decoder.layer_norm(x[:, -1]))  # (batch, vocab)
        logits = suppress(scores, self.barred)
        alignment = torch.stack(heads).mean(0, keepdim=True)  # (1, batch, tokens, positions)
        languages = (scores[:, self.languages],) if self.languages else ()
        return (logits, *best_token(logits), alignment, *languages, *new)


def _projections(attention: Untyped) -> tuple[Untyped, Untyped, Untyped]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _split(attention: Untyped, projected: Tensor) -> Tensor:
    """Split (batch, tokens, width) into (batch, heads, tokens, head_dim)."""
    return projected.view(*projected.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _join(attention: Untyped, mixed: Tensor) -> Tensor:
    """Undo `_split` and apply the output projection."""
    batch, heads, tokens, head_dim = mixed.shape
    joined: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, heads * head_dim))
    return joined


def _cross_attend(attention: Untyped, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend to speech; return the mix and the weights, (batch, heads, tokens, positions).

    `keys` and `values` are (heads, positions, head_dim), the same for every row of the batch.
    """
    query = _split(attention, attention.q_proj(x)) * attention.scaling
    weights = (query @ keys.transpose(1, 2)).softmax(-1)
    return _join(attention, weights @ values), weights


class SpeechSide(nn.Module):
    """The decoder's projections of speech, which run once for each encoding."""

    def __init__(self, llm: Any) -> None:  # Any: transformers' models have no types
        super().__init__()
        attentions = [layer.encoder_attn for layer in llm.model.decoder.layers]
        self.heads, self.head_dim = attentions[0].num_heads, attentions[0].head_dim
        self.projections = nn.ModuleList(part for layer in attentions for part in (layer.k_proj, layer.v_proj))

    def forward(self, steps: Tensor) -> tuple[Tensor, ...]:
        """Project (batch, steps, width) to keys and values of each layer, (batch, heads, positions, head_dim)."""
        positions = steps.reshape(steps.shape[0], -1, self.heads * self.head_dim)
        return tuple(
            project(positions).view(*positions.shape[:2], self.heads, self.head_dim).transpose(1, 2)
            for project in self.projections
        )


def speech_side(model: SpeechModel) -> SpeechSide:
    """Return the module that ends the encoder's graph, see `bestow_edge.export.graphs.base.speech_side`."""
    return SpeechSide(model.llm)


def sources(config: ModelConfig) -> tuple[GraphSource, ...]:
    """Return the source of `decoder_step`: compared at single tokens, prompts and several rows."""
    shapes = [(1, 1, 1500, 64), (1, 7, 500, 64), (1, 1, 100, 128), (2, 4, 16, 9)]

    def make_lawful(feeds: Feeds, case: Case, rng: np.random.Generator) -> None:
        past = min(case[CAPACITY], config.max_text_tokens) - case[TOKENS]
        feeds[PAST_TOKENS] += past - np.arange(case[BATCH])
        feeds[TOKEN_IDS] += rng.integers(0, config.llm["vocab_size"], feeds[TOKEN_IDS].shape)

    (spec,) = specs(config)
    source = GraphSource(
        spec=spec,
        weights=("llm.",),
        build=traced_from(DecoderStep),
        sizes=tuple(dict(zip((BATCH, TOKENS, POSITIONS, CAPACITY), shape, strict=True)) for shape in shapes),
        make_lawful=make_lawful,
        largest_block=LARGEST_BLOCK,
    )
    return (source,)
