"""Encoder kind `windowed` in PyTorch: transformers' bidirectional FastConformer over whole utterances."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def encode(network: Any, mel: Tensor, mask: Tensor, right_context: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - see `chunked`
    """Encode whole utterances; every step hears all of them. Arguments and results are those of `chunked.encode`."""
    out = network(mel, attention_mask=mask, output_attention_mask=True)
    return out.last_hidden_state, out.attention_mask.sum(-1)
