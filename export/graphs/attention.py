"""Attention that several graphs share: causal over cached and new tokens, without joining caches, and over windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def self_attend(
    query: Tensor, new: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], past_tokens: Tensor, causal: Tensor
) -> Tensor:
    """Attend to the cached tokens and to the new ones.

    Args:
        query: (batch, heads, tokens, head_dim), scaled.
        new: keys and values of the new tokens, (batch, heads, tokens, head_dim) each.
        past: keys and values in their buffers, (batch, heads, capacity, head_dim) each.
        past_tokens: (batch,) int64 slots of the buffers that count.
        causal: bool, broadcast to (batch, heads, tokens, tokens): which new tokens each sees.

    Returns:
        (batch, heads, tokens, head_dim).
    """
    (keys, values), (past_keys, past_values) = new, past
    capacity = past_keys.shape[2]
    slot = torch.arange(capacity, device=query.device)
    cached = (slot < past_tokens[:, None])[:, None, None]  # (batch, 1, 1, capacity)
    old_scores, new_scores = query @ past_keys.transpose(2, 3), query @ keys.transpose(2, 3)
    weights = torch.cat([hide(old_scores, cached), hide(new_scores, causal)], dim=-1).softmax(-1)
    return weights[..., :capacity] @ past_values + weights[..., capacity:] @ values


def stored_attend(
    query: Tensor, new: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], past_tokens: Tensor
) -> Tensor:
    """Attend, causally, to the cached tokens and the new ones in the slots where they will be cached.

    So the sums of a token have the same terms in the same order, whether the token before it is cached or new. The
    buffers are copied. Arguments and result are those of `self_attend`.
    """
    keys, values = (store(buffer, states, past_tokens) for buffer, states in zip(past, new, strict=True))
    slot = torch.arange(keys.shape[2], device=query.device)
    position = past_tokens[:, None] + torch.arange(query.shape[2], device=query.device)  # (batch, tokens)
    allowed = (slot <= position[..., None])[:, None]  # (batch, 1, tokens, capacity)
    return hide(query @ keys.transpose(2, 3), allowed).softmax(-1) @ values


def store(buffer: Tensor, new: Tensor, past_tokens: Tensor) -> Tensor:
    """Return a buffer (batch, heads, capacity, head_dim) with new states (batch, heads, tokens, head_dim) in its slots.

    `past_tokens` (batch,) int64 are the slots before them.
    """
    slots = past_tokens[:, None, None, None] + torch.arange(new.shape[2], device=new.device)[:, None]
    return buffer.scatter(2, slots.expand(new.shape), new)


def hide(scores: Tensor, allowed: Tensor) -> Tensor:
    """Give the least number there is to scores that are not allowed."""
    return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)


def attend(attention: Any, x: Tensor, valid: Tensor) -> Tensor:  # Any: transformers' modules have no types
    """Attend from each position to every valid one, in both directions.

    The heads follow each other, so that the scores of one at a time are in memory: 9 MB for 30 s of audio.

    Args:
        attention: with `q_proj`, `k_proj`, `v_proj`, `out_proj`, `num_heads` and `scaling`.
        x: (batch, positions, width).
        valid: (batch, positions) bool.
    """
    query, keys, values = (project(x) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
    width = x.shape[2] // attention.num_heads
    each = zip(
        (query * attention.scaling).split(width, -1), keys.split(width, -1), values.split(width, -1), strict=True
    )
    mixed = [
        hide(one @ key.transpose(1, 2), valid[:, None]).softmax(-1) @ value  # (batch, positions, positions)
        for one, key, value in each
    ]
    joined: Tensor = attention.out_proj(torch.cat(mixed, -1))
    return joined
