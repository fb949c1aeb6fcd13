"""`nemotron_asr_streaming_encoder` as a graph: one chunk of the cache-aware encoder, up to what the connector takes.

The weights are those of transformers' encoder; the computation is written out here for explicit caches, because that
makes one graph serve every look-ahead, lets 1x1 convolutions become matrix products (which int8 can quantise) and
turns the relative positions into constants. Tests compare it with transformers' own forward pass.

Legend of shape comments: batch, frames (10 ms), steps (80 ms), d_model, heads, head_dim, slots (of a cache's ring).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.chunked import chunked
from bestow_edge.core.tensors import BATCH, FRAME_END, FRAMES, PAST_STEPS, GraphSpec
from bestow_edge.export.graphs.base import (
    Case,
    Feeds,
    GraphSource,
    speech_like,
    speech_side,
    speech_weights,
    traced_from,
)
from bestow_edge.model.base import SpeechModel

Untyped = Any  # a transformers module: torch types a module's attributes as Tensor or Module, whatever they are


class EncoderChunk(nn.Module):
    """Encoder and the connector's speech side as one function of a chunk and the caches before it."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        config = chunked(model.config)
        encoder: Untyped = model.encoder
        self.scale = encoder.input_scale
        self.subsampling: Untyped = encoder.subsampling
        self.left_context, self.slots = config.left_context, config.cache_slots
        self.frames_per_step, self.chunk = config.frames_per_step, config.max_chunk_steps
        self.longest = config.left_context + self.chunk - 1  # distance of two steps
        self.blocks = nn.ModuleList(
            BlockChunk(block, encoder, config.left_context, config.max_chunk_steps) for block in encoder.layers
        )
        self.speech_side: Untyped = speech_side(model)

    def forward(
        self, mel: Tensor, frame_start: Tensor, frame_end: Tensor, past_steps: Tensor, *cached: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode one chunk; names and shapes of arguments and results are those of `bestow_edge.core.specs.chunked`."""
        caches, states = iter(cached[: 2 * len(self.blocks)]), iter(cached[2 * len(self.blocks) :])
        x, next_states = self._subsample(mel, frame_start, frame_end, states)  # (batch, steps, d_model)
        end_step = (frame_end + self.frames_per_step - 1) // self.frames_per_step
        visible, column = self._places(past_steps, end_step, x.shape[1])
        new: list[Tensor] = []
        for block in self.blocks:
            x, keys, values, conv = block(x, visible, column, next(caches), next(caches), next(states))
            new += [keys, values]
            next_states.append(conv)
        return *self.speech_side(x), *new, *next_states

    def _places(self, past_steps: Tensor, end_step: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return which keys a chunk may attend to, and how far each is from each query.

        Keys are the ring's slots and then the chunk's own steps. Slot s holds the latest step a < past with
        a mod slots = s; of those the left context counts.

        Returns:
            (batch, 1, 1, slots + steps) bool, and (batch, 1, steps, slots + steps) int64, columns of `positions`.
        """
        past = past_steps[:, None]  # (batch, 1)
        slot = torch.arange(self.slots, device=past.device)
        # One ring more, so that nothing is negative: runtimes disagree about the remainder then.
        step = past - 1 - torch.remainder(past - 1 - slot + self.slots, self.slots)  # (batch, slots)
        cached = (step >= 0) & (step >= past - self.left_context)
        own = torch.arange(steps, device=past.device)
        fresh = own < end_step[:, None]  # (batch, steps)
        key_steps = torch.cat([step, past + own], dim=1)  # (batch, slots + steps)
        distance = (past + own)[:, :, None] - key_steps[:, None]  # (batch, steps, slots + steps)
        column = self.longest - distance
        in_reach = (column >= 0) & (column < self.longest + self.chunk)
        column = torch.where(in_reach, column, 0)  # those out of reach are hidden; TensorRT cannot clamp int64
        return torch.cat([cached, fresh], dim=1)[:, None, None], column[:, None]

    def _subsample(
        self, mel: Tensor, start: Tensor, end: Tensor, states: Iterator[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Three causal stride-2 convolutions; frames outside [start, end) are zero before each of them."""
        x = masked(mel[:, None], start, end)  # (batch, 1, frames, mel_bins)
        stages = [(self.subsampling.conv_in, None)]
        stages += [(layer.depthwise_conv, layer.pointwise_conv) for layer in self.subsampling.layers]
        next_states = []
        for convolution, pointwise in stages:
            padded = torch.cat([next(states), x], dim=2)
            next_states.append(x[:, :, -1:])
            padded = F.pad(padded, convolution.freq_pad)
            x = F.conv2d(padded, convolution.weight, convolution.bias, convolution.stride, groups=convolution.groups)
            if pointwise is not None:
                x = pointwise(x)
            start, end = start // 2, (end + 1) // 2
            x = F.relu(masked(x, start, end))
        batch, channels, steps, bins = x.shape
        x = x.transpose(1, 2).reshape(batch, steps, channels * bins)
        return self.subsampling.linear(x) * self.scale, next_states


class BlockChunk(nn.Module):
    """One FastConformer block over a chunk."""

    positions: Tensor  # (heads, head_dim, distances)

    def __init__(self, block: Untyped, encoder: Untyped, left_context: int, max_chunk_steps: int) -> None:
        super().__init__()
        self.block: Untyped = block
        self.register_buffer("positions", _position_keys(block.self_attn, encoder, left_context, max_chunk_steps))
        self.pointwise_1 = as_linear(block.conv.pointwise_conv1)
        self.pointwise_2 = as_linear(block.conv.pointwise_conv2)

    def forward(
        self, x: Tensor, visible: Tensor, column: Tensor, keys: Tensor, values: Tensor, conv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (batch, steps, d_model), the chunk's own keys and values, and the next convolution cache."""
        block = self.block
        x = x + 0.5 * block.feed_forward1(block.norm_feed_forward1(x))
        mixed, new_keys, new_values = self._attend(block.norm_self_att(x), visible, column, keys, values)
        x = x + mixed
        convolved, conv = self._convolve(block.norm_conv(x), conv)
        x = x + convolved
        x = x + 0.5 * block.feed_forward2(block.norm_feed_forward2(x))
        return block.norm_out(x), new_keys, new_values, conv

    def _attend(
        self, x: Tensor, visible: Tensor, column: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to the ring and to the chunk itself in two products, so that the ring is not copied."""
        attention = self.block.self_attn
        batch, steps, _ = x.shape

        def split(projected: Tensor) -> Tensor:
            heads = projected.view(batch, steps, -1, attention.head_dim)  # (batch, steps, heads, head_dim)
            return heads.transpose(1, 2)

        query = split(attention.q_proj(x) * attention.scaling)  # the factor becomes part of the product's matrix
        own_keys, own_values = split(attention.k_proj(x)), split(attention.v_proj(x))
        content = query + attention.scaling * attention.bias_u[None, :, None]
        scores = torch.cat([content @ keys.transpose(2, 3), content @ own_keys.transpose(2, 3)], dim=-1)
        by_distance = (query + attention.scaling * attention.bias_v[None, :, None]) @ self.positions
        scores = scores + by_distance.gather(-1, column.expand(-1, query.shape[1], -1, -1))
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
        slots = keys.shape[2]
        mixed = weights[..., :slots] @ values + weights[..., slots:] @ own_values
        return attention.o_proj(mixed.transpose(1, 2).reshape(batch, steps, -1)), own_keys, own_values

    def _convolve(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        convolution = self.block.conv
        x = F.glu(self.pointwise_1(x), dim=-1).transpose(1, 2)  # (batch, d_model, steps)
        x = torch.cat([cache, x], dim=2)
        cache = x[:, :, -cache.shape[2] :]
        x = over_time(convolution.depthwise_conv, x).transpose(1, 2)
        mixed: Tensor = self.pointwise_2(convolution.activation(convolution.norm(x)))
        return mixed, cache


def masked(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Zero the rows of (batch, channels, rows, bins) outside [start, end) of each batch item."""
    row = torch.arange(x.shape[2], device=x.device)
    return x * ((row >= start[:, None]) & (row < end[:, None]))[:, None, :, None].to(x.dtype)


def over_time(convolution: nn.Conv1d, x: Tensor, padding: int = 0) -> Tensor:
    """Return a depthwise convolution of (batch, channels, steps), as one of an image with a single row.

    onnxruntime's CPU provider has a fast kernel for depthwise convolutions of images alone: 32 us for 14 steps of 1024
    channels instead of 180, 18 us for a single step instead of 113.
    """
    weight, bias = convolution.weight[:, :, None], convolution.bias
    return F.conv2d(x[:, :, None], weight, bias, padding=(0, padding), groups=convolution.groups)[:, :, 0]


def as_linear(convolution: nn.Conv1d) -> nn.Linear:
    """Return the matrix product a 1x1 convolution is."""
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, bias=convolution.bias is not None)
    linear.weight = nn.Parameter(convolution.weight.detach()[:, :, 0])
    if convolution.bias is not None:
        linear.bias = nn.Parameter(convolution.bias.detach())
    return linear


def _position_keys(attention: Untyped, encoder: Untyped, left_context: int, max_chunk_steps: int) -> Tensor:
    """Project the sinusoids of the distances left + chunk - 1 .. -(chunk - 1), all a chunk can need.

    Returns:
        (heads, head_dim, left + 2 * chunk - 1)
    """
    total = left_context + max_chunk_steps
    dummy = torch.zeros(1, total, attention.config.hidden_size)
    embeddings = encoder.encode_positions(dummy)  # (1, 2 * total - 1, d_model), distances total - 1 .. -(total - 1)
    keys = attention.relative_k_proj(embeddings[0, : total + max_chunk_steps - 1])
    positions: Tensor = keys.view(keys.shape[0], -1, attention.head_dim).permute(1, 2, 0).detach()
    return positions


def source(config: ModelConfig, spec: GraphSpec) -> GraphSource:
    """Return the source of `encoder_chunk`: compared at a chunk of each look-ahead, and at several rows."""
    encoder = chunked(config)
    frames = [encoder.frames_per_step * (lookahead + 1) for lookahead in encoder.lookaheads]

    def make_lawful(feeds: Feeds, case: Case, _rng: np.random.Generator) -> None:
        speech_like(feeds, config.features)
        feeds[FRAME_END] += case[FRAMES] - np.arange(case[BATCH])
        feeds[PAST_STEPS] += 3 * encoder.left_context * np.arange(case[BATCH]) + 5  # rings empty and wrapped

    return GraphSource(
        spec=spec,
        weights=("encoder.", *speech_weights(config)),
        build=traced_from(EncoderChunk),
        sizes=(*({BATCH: 1, FRAMES: count} for count in frames), {BATCH: 3, FRAMES: 2 * encoder.frames_per_step}),
        make_lawful=make_lawful,
        largest_block=None,
    )
