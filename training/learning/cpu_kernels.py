"""Faster replacements for some CPU kernels of torch in training. Results differ by rounding only."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bestow_edge.model.base import SpeechModel


def use_fast_kernels(model: SpeechModel) -> None:
    """Replace three operations of a model in place.

    - Attention of the LLM: for short texts, separate operators take a third of the time of the fused kernel.
    - The shift of relative positions becomes a view. transformers pads and copies, which torch.compile turns into a
      loop of integer divisions.
    - Depthwise convolutions of the sub-sampling run in float32. The backward pass takes 53 ms instead of 174 ms in
      bfloat16 (100 s of speech, 48 channels, one thread of an EPYC with AVX-512).
    """
    model.llm.set_attn_implementation("eager")
    for module in model.encoder.modules():
        keeps: Any = module  # Any: methods are replaced
        if hasattr(module, "_rel_shift"):
            keeps._rel_shift = relative_shift
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            keeps.forward = functools.partial(_as_weights, module, module.forward)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by relative position into scores by key, as transformers' `_rel_shift`.

    Args:
        scores: (batch, heads, queries, positions), contiguous; positions run from the oldest key to the newest.

    Returns:
        (batch, heads, queries, keys or more), a view: entry (i, j) is the score of position queries - 1 - i + j.
    """
    queries, positions = scores.shape[2:]
    if queries == 1:
        return scores
    shifted = scores.flatten(2)[..., queries - 1 : queries * positions - 1]
    return shifted.view(*scores.shape[:3], positions - 1)


def _as_weights(module: nn.Conv2d, forward: Any, x: Tensor, **options: Any) -> Tensor:  # Any: the module's own
    """Compute in the dtype of the weights in spite of autocast: float32, unless FSDP shards them in another dtype."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = forward(x.to(module.weight.dtype), **options).to(x.dtype)
    return out
