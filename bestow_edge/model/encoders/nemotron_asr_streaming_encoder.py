"""The cache-aware FastConformer of kind `chunked`, as transformers has it, over whole utterances."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoModel

from bestow_edge.core.config import EncoderConfig


def build(config: Any) -> Any:  # Any: transformers' configs and auto classes have no types
    """Build the encoder of a transformers config, with fresh weights."""
    from_config: Any = AutoModel.from_config
    return from_config(config, attn_implementation="sdpa")


def encode(
    network: Any, _config: EncoderConfig, mel: Tensor, mask: Tensor, right_context: int
) -> tuple[Tensor, Tensor]:
    """Encode whole utterances; each step sees what it sees in a stream with that right context.

    Args:
        network: the transformers encoder; Any: auto classes have no types.
        mel: (batch, frames, mel_bins) float.
        mask: (batch, frames) bool, true for real frames.
        right_context: steps.

    Returns:
        (batch, steps, width) float and (batch,) int64 valid steps.
    """
    out = network(mel, attention_mask=mask, output_attention_mask=True, num_lookahead_tokens=right_context)
    return out.last_hidden_state, out.attention_mask.sum(-1)
