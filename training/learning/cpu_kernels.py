"""What torch's CPU kernels are slow at, done in another way during training. Results differ by rounding alone."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bestow_edge.model.base import SpeechModel


def use_fast_kernels(model: SpeechModel) -> None:
    """Choose the faster of two ways where the CPU has both. Nothing else of the model changes.

    - Attention of the LLM over short texts: operator by operator a third of the time of the fused kernel.
    - The shift of relative positions as a view: transformers' pads and copies, of which torch.compile makes a loop of
      integer divisions.
    - Depthwise convolutions of images, in the sub-sampling: backwards float32 takes 53 ms where bfloat16 takes 174
      (100 s of speech, 48 channels, one thread of an EPYC with AVX-512).
    """
    model.llm.set_attn_implementation("eager")
    for module in model.encoder.modules():
        keeps: Any = module  # Any: methods are replaced
        if hasattr(module, "_rel_shift"):
            keeps._rel_shift = relative_shift
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            keeps.forward = functools.partial(_as_weights, module, module.forward)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by relative position into scores by key, as transformers' `_rel_shift` does for the keys there are.

    Args:
        scores: (batch, heads, queries, positions), contiguous; positions run from the oldest key to the newest.

    Returns:
        (batch, heads, queries, keys or more), a view: entry (i, j) is that of position queries - 1 - i + j.
    """
    queries, positions = scores.shape[2:]
    if queries == 1:
        return scores
    shifted = scores.flatten(2)[..., queries - 1 : queries * positions - 1]
    return shifted.view(*scores.shape[:3], positions - 1)


def _as_weights(module: nn.Conv2d, forward: Any, x: Tensor, **options: Any) -> Tensor:  # Any: the module's own
    """Compute in the weights' own type, float32 unless something shards them in another, whatever autocast wants."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = forward(x.to(module.weight.dtype), **options).to(x.dtype)
    return out
