"""The bidirectional FastConformer of kind `windowed`, as transformers has it, over whole utterances."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoModel


def build(config: Any) -> Any:  # Any: transformers' configs and auto classes have no types
    """Build the encoder of a transformers config, with fresh weights."""
    from_config: Any = AutoModel.from_config
    return from_config(config, attn_implementation="sdpa")


def encode(network: Any, mel: Tensor, mask: Tensor, right_context: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - it hears all
    """Encode whole utterances; every step hears all of them.

    Args:
        network: the transformers encoder; Any: auto classes have no types.
        mel: (batch, frames, mel_bins) float.
        mask: (batch, frames) bool, true for real frames.
        right_context: not used.

    Returns:
        (batch, steps, width) float and (batch,) int64 valid steps.
    """
    out = network(mel, attention_mask=mask, output_attention_mask=True)
    return out.last_hidden_state, out.attention_mask.sum(-1)
