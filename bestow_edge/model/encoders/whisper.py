"""Whisper's encoder of kind `windowed`, over utterances of any length: positions are cut, nothing is filled up to 30 s.

Four positions of 20 ms are one step of 80 ms. Frames and positions behind the end of an utterance change none before
it. transformers' own forward pass takes 30 s and no mask, so the layers are run here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from bestow_edge.core.config import EncoderConfig
from bestow_edge.core.specs.windowed import POSITIONS_PER_STEP, WHISPER


def build(config: Any) -> WhisperEncoder:  # Any: a WhisperConfig; transformers' configs have no types
    """Build the encoder of a transformers config, with fresh weights."""
    config._attn_implementation = "sdpa"
    return WhisperEncoder(config)


def encode(
    network: Any, _config: EncoderConfig, mel: Tensor, mask: Tensor, _right_context: int
) -> tuple[Tensor, Tensor]:
    """Encode whole utterances; every step hears all of them.

    Args:
        network: the transformers encoder; Any: its layers have no types.
        mel: (batch, frames, mel_bins) float.
        mask: (batch, frames) bool, true for real frames.

    Returns:
        (batch, steps, width) float and (batch,) int64 valid steps.
    """
    frames_per_step = 2 * POSITIONS_PER_STEP[WHISPER]
    ends = mask.sum(-1)
    mel = F.pad(mel, (0, 0, 0, -mel.shape[1] % frames_per_step))
    x, valid = stem(network, mel, ends)
    hidden = torch.where(valid, 0.0, torch.finfo(x.dtype).min).to(x.dtype)[:, None, None]  # (batch, 1, 1, positions)
    for layer in network.layers:
        x = layer(x, hidden.expand(-1, -1, x.shape[1], -1))
    return stack(network.layer_norm(x), valid), (ends + frames_per_step - 1) // frames_per_step


def stem(network: Any, mel: Tensor, frame_end: Tensor) -> tuple[Tensor, Tensor]:
    """Run the two convolutions and add the positions.

    Args:
        network: the transformers encoder.
        mel: (batch, frames, mel_bins) float.
        frame_end: (batch,) int64 real frames.

    Returns:
        (batch, positions, width) float and (batch, positions) bool, whether a position has a real frame.
    """
    frame = torch.arange(mel.shape[1], device=mel.device)
    real = (frame < frame_end[:, None])[:, None].to(mel.dtype)  # (batch, 1, frames)
    x = F.gelu(network.conv1(mel.transpose(1, 2) * real)) * real
    x = F.gelu(network.conv2(x)).transpose(1, 2)  # half as many positions as frames
    position = torch.arange(x.shape[1], device=mel.device)
    return x + network.embed_positions.weight[: x.shape[1]], position < ((frame_end + 1) // 2)[:, None]


def stack(x: Tensor, valid: Tensor) -> Tensor:
    """Join the positions of each step: (batch, positions, width) to (batch, steps, 4 * width); zero where invalid."""
    batch, positions, width = x.shape
    per_step = POSITIONS_PER_STEP[WHISPER]
    return (x * valid[..., None].to(x.dtype)).reshape(batch, positions // per_step, per_step * width)
