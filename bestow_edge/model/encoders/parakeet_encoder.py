"""The bidirectional FastConformer of kind `windowed`, as transformers has it, over whole utterances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from bestow_edge.core.specs.windowed import WindowedConfig


def build(config: Any) -> Any:  # Any: transformers' configs and auto classes have no types
    """Build the encoder of a transformers config, with fresh weights."""
    from_config: Any = AutoModel.from_config
    return from_config(config, attn_implementation="sdpa")


def encode(
    network: Any, sizes: WindowedConfig, mel: Tensor, mask: Tensor, _right_context: int
) -> tuple[Tensor, Tensor]:
    """Encode whole utterances; every step hears all of them.

    Args:
        network: the transformers encoder; Any: auto classes have no types.
        sizes: with the layers to tap.
        mel: (batch, frames, mel_bins) float.
        mask: (batch, frames) bool, true for real frames.

    Returns:
        (batch, steps, width) float and (batch,) int64 valid steps.
    """
    out = network(mel, attention_mask=mask, output_attention_mask=True, output_hidden_states=bool(sizes.taps))
    steps = out.last_hidden_state
    if sizes.taps:
        steps = torch.cat(
            [out.hidden_states[layer + 1] for layer in sizes.taps], dim=-1
        )  # 0 is the first layer's input
    return steps, out.attention_mask.sum(-1)
