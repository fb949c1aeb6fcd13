"""`whisper` as a graph: Whisper's encoder over a window of any length up to 30 s, up to what the connector takes.

The attention is written out, so that one graph takes any number of frames and no mask. Tests compare it with
transformers' own forward pass over 30 s.

Legend of shape comments: batch, frames (10 ms), positions (20 ms), width, heads, head_dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.graphs.attention import attend
from bestow_edge.export.graphs.base import GraphSource, speech_side, window_source
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.encoders.whisper import stack, stem

Untyped = Any  # modules of transformers, which have no types
LARGEST_BLOCK = 16  # in int8 the output differs by 3.0 % (root mean square), with blocks of 128 by 5.9 %, as fast


class WindowEncoder(nn.Module):
    """Encoder and the connector's speech side as one function of all frames of a window."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.encoder: Untyped = model.encoder
        self.speech_side: Untyped = speech_side(model)

    def forward(self, mel: Tensor, frame_end: Tensor) -> tuple[Tensor, ...]:
        """Encode a window; names and shapes of arguments and results are those of `bestow_edge.core.specs.windowed`."""
        x, valid = stem(self.encoder, mel, frame_end)  # (batch, positions, width)
        for layer in self.encoder.layers:
            x = x + attend(layer.self_attn, layer.self_attn_layer_norm(x), valid)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        speech: tuple[Tensor, ...] = self.speech_side(stack(self.encoder.layer_norm(x), valid))
        return speech


def source(config: ModelConfig, spec: GraphSpec) -> GraphSource:
    """Return the source of `encoder_window`."""
    return window_source(config, spec, WindowEncoder, largest_block=LARGEST_BLOCK)
