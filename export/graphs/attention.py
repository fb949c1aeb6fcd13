"""Causal self-attention over cached and new tokens, which joins no caches: a part of several graphs."""

from __future__ import annotations

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


def hide(scores: Tensor, allowed: Tensor) -> Tensor:
    """Give the least number there is to scores that are not allowed."""
    return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
