"""Qwen3-ASR's audio encoder: transformers' `Qwen3ASREncoder` over whole utterances."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASREncoder

from bestow_edge.core.config import EncoderConfig
from bestow_edge.core.specs.blocks import CHUNK_FRAMES

Untyped = Any  # transformers' models have no types


def build(config: Untyped) -> PreTrainedModel:
    """Build the encoder of a transformers config, with fresh weights."""
    encoder: PreTrainedModel = Qwen3ASREncoder(config)
    return encoder


def encode(
    network: Untyped, _config: EncoderConfig, mel: Tensor, mask: Tensor, _right_context: int
) -> tuple[Tensor, Tensor]:
    """Encode whole utterances.

    Args:
        network: the encoder.
        mel: (batch, frames, mel_bins) float, zero behind each length.
        mask: (batch, frames) bool, valid frames.

    Returns:
        (batch, steps, width) float, zero behind each length, and (batch,) int64 valid steps.
    """
    to_pad = -mel.shape[1] % CHUNK_FRAMES
    mel, mask = F.pad(mel, (0, 0, 0, to_pad)), F.pad(mask, (0, to_pad))
    flat = network(mel.transpose(1, 2), mask.long()).last_hidden_state  # (all steps of all utterances, width)
    chunks = mask.reshape(len(mask), -1, CHUNK_FRAMES).sum(-1)  # (batch, seconds) valid frames
    lens = network._post_cnn_length(chunks).sum(-1)
    return pad_sequence(flat.split(lens.tolist()), batch_first=True), lens
