"""`qwen3_asr_encoder` as a graph: Qwen3-ASR's audio encoder over one block, up to what the connector takes.

transformers packs the valid steps of all utterances into one sequence, whose length depends on the content of tensors;
here each row keeps all its steps, and those behind its end are hidden. Tests compare both.

Legend of shape comments: batch, frames (10 ms), chunks (1 s), steps (13 a chunk), bins (mel), channels, width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.blocks import CHUNK_FRAMES, CHUNK_STEPS
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.graphs.attention import attend
from bestow_edge.export.graphs.base import GraphSource, speech_side, window_source
from bestow_edge.model.base import SpeechModel

Untyped = Any  # modules of transformers, which have no types


class BlockEncoder(nn.Module):
    """Encoder and the connector's speech side as one function of the frames of a block."""

    positions: Tensor  # (13, width)

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        encoder: Untyped = model.encoder
        table: Tensor = encoder.positional_embedding.positional_embedding
        self.register_buffer("positions", table[:CHUNK_STEPS].detach().clone())
        self.encoder = encoder
        self.speech_side: Untyped = speech_side(model)

    def forward(self, mel: Tensor, frame_end: Tensor) -> tuple[Tensor, ...]:
        """Encode a block; names and shapes of arguments and results are those of `bestow_edge.core.specs.blocks`."""
        x = self._convolve(mel, frame_end)  # (batch, steps, width)
        valid = torch.arange(x.shape[1], device=x.device) < _num_steps(frame_end)[:, None]  # (batch, steps)
        for layer in self.encoder.layers:
            x = x + attend(layer.self_attn, layer.self_attn_layer_norm(x), valid)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        speech: tuple[Tensor, ...] = self.speech_side(self.encoder.ln_post(x))
        return speech

    def _convolve(self, mel: Tensor, frame_end: Tensor) -> Tensor:
        """Run the convolutions over each second alone, and add the positions within it."""
        batch, frames, bins = mel.shape
        real = torch.arange(frames, device=mel.device) < frame_end[:, None]
        x = (mel * real[..., None].to(mel.dtype)).reshape(-1, 1, CHUNK_FRAMES, bins)  # (batch * chunks, 1, 100, bins)
        x = x.transpose(2, 3)
        for convolution in (self.encoder.conv2d1, self.encoder.conv2d2, self.encoder.conv2d3):
            x = F.gelu(convolution(x))  # (batch * chunks, channels, bins / 8, 13) in the end
        x = self.encoder.conv_out(x.permute(0, 3, 1, 2).flatten(2)) + self.positions  # (batch * chunks, 13, width)
        joined: Tensor = x.reshape(batch, -1, x.shape[-1])
        return joined


def _num_steps(frame_end: Tensor) -> Tensor:
    """Return the steps of blocks of some frames, see `BlocksConfig.num_steps`."""
    rest = frame_end % CHUNK_FRAMES
    for _ in range(3):
        rest = (rest + 1) // 2
    return frame_end // CHUNK_FRAMES * CHUNK_STEPS + rest


def source(config: ModelConfig, spec: GraphSpec) -> GraphSource:
    """Return the source of `encoder_block`."""
    return window_source(config, spec, BlockEncoder, largest_block=128)
