"""`parakeet_encoder` as a graph: the bidirectional encoder over a whole window, up to what the connector takes.

The weights are those of transformers' `ParakeetEncoder`; as for the cache-aware encoder the computation is written out,
so that 1x1 convolutions become matrix products (which int8 can quantise) and one graph takes any number of frames.
Tests compare it with transformers' own forward pass. The runtime decides which steps of a window it keeps.

Legend of shape comments: batch, frames (10 ms), steps (80 ms), d_model, heads, head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ExportError
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.graphs.base import GraphSource, speech_side, window_source
from bestow_edge.export.graphs.nemotron_asr_streaming_encoder import Untyped, as_linear, masked, over_time
from bestow_edge.model.base import SpeechModel


class BidirectionalEncoder(nn.Module):
    """Encoder and the connector's speech side as one function of all frames of a window."""

    def __init__(self, model: SpeechModel) -> None:
        """Take the model's modules.

        Raises:
            ExportError: if the sub-sampling is not made of stride-2 convolutions with odd kernels.
        """
        super().__init__()
        encoder: Untyped = model.encoder
        kernel, stride = encoder.config.subsampling_conv_kernel_size, encoder.config.subsampling_conv_stride
        if kernel % 2 == 0 or stride != 2:
            got = f"subsampling_conv_kernel_size {kernel} and subsampling_conv_stride {stride}"
            raise ExportError(f"encoder: {got}; export needs an odd kernel and stride 2, where 8 frames are one step")
        self.scale = encoder.input_scale
        self.subsampling: Untyped = encoder.subsampling
        taps = windowed(model.config).taps
        self.layers = BidirectionalLayers(encoder.layers, encoder.encode_positions.inv_freq, taps)
        self.frames_per_step = windowed(model.config).frames_per_step
        self.speech_side: Untyped = speech_side(model)

    def forward(self, mel: Tensor, frame_end: Tensor) -> tuple[Tensor, ...]:
        """Encode a window; names and shapes of arguments and results are those of `bestow_edge.core.specs.windowed`."""
        x = self._subsample(mel, frame_end)  # (batch, steps, d_model)
        end_step = (frame_end + self.frames_per_step - 1) // self.frames_per_step
        valid = torch.arange(x.shape[1], device=x.device) < end_step[:, None]  # (batch, steps)
        speech: tuple[Tensor, ...] = self.speech_side(self.layers(x, valid))
        return speech

    def _subsample(self, mel: Tensor, end: Tensor) -> Tensor:
        """Three stride-2 convolutions; frames behind the end are zero before and after each of them."""
        start = torch.zeros_like(end)
        x = masked(mel[:, None], start, end)  # (batch, 1, frames, mel_bins)
        for layer in self.subsampling.layers:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                end = (end + 1) // 2 if layer.stride != (1, 1) else end
                x = masked(x, start, end)
        batch, channels, steps, bins = x.shape
        x = x.transpose(1, 2).reshape(batch, steps, channels * bins)
        scaled: Tensor = self.subsampling.linear(x) * self.scale
        return scaled


class BidirectionalLayers(nn.Module):
    """FastConformer blocks over a window."""

    frequencies: Tensor  # (d_model / 2,)

    def __init__(self, layers: Untyped, frequencies: Tensor, taps: Sequence[int] = ()) -> None:
        """Take the modules.

        Args:
            layers: transformers' blocks; those behind the last tap are left out.
            frequencies: of their positions, (d_model / 2,).
            taps: blocks whose outputs are wanted; empty = the last one.
        """
        super().__init__()
        self.register_buffer("frequencies", frequencies.detach().clone())
        self.taps = tuple(taps) or (len(layers) - 1,)
        self.blocks = nn.ModuleList(BidirectionalBlock(block) for block in layers[: max(self.taps) + 1])

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return (batch, steps, taps * d_model); arguments are those of a block."""
        positions, outputs = self._positions(x.shape[1]), []
        for block in self.blocks:
            x = block(x, valid, positions)
            outputs.append(x)
        return x if len(self.taps) == 1 else torch.cat([outputs[tap] for tap in self.taps], dim=-1)

    def _positions(self, steps: int) -> Tensor:
        """Return the sinusoids of the distances steps - 1 .. -(steps - 1), (2 * steps - 1, d_model)."""
        distances = torch.arange(2 * steps - 1, device=self.frequencies.device)
        angles = (steps - 1 - distances).to(self.frequencies.dtype)[:, None] * self.frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class BidirectionalBlock(nn.Module):
    """One FastConformer block over a window."""

    def __init__(self, block: Untyped) -> None:
        super().__init__()
        self.block: Untyped = block
        self.pointwise_1 = as_linear(block.conv.pointwise_conv1)
        self.pointwise_2 = as_linear(block.conv.pointwise_conv2)

    def forward(self, x: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        """Return (batch, steps, d_model).

        Args:
            x: (batch, steps, d_model).
            valid: (batch, steps) bool; steps that are not valid change no valid one.
            positions: (2 * steps - 1, d_model) sinusoids.
        """
        block = self.block
        x = x + 0.5 * block.feed_forward1(block.norm_feed_forward1(x))
        x = x + self._attend(block.norm_self_att(x), valid, positions)
        x = x + self._convolve(block.norm_conv(x), valid)
        x = x + 0.5 * block.feed_forward2(block.norm_feed_forward2(x))
        normed: Tensor = block.norm_out(x)
        return normed

    def _attend(self, x: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        attention = self.block.self_attn
        batch, steps, _ = x.shape

        def split(projected: Tensor) -> Tensor:
            heads = projected.view(batch, steps, -1, attention.head_dim)  # (batch, steps, heads, head_dim)
            return heads.transpose(1, 2)

        query, keys, values = (split(project(x)) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        content = (query + attention.bias_u[None, :, None]) @ keys.transpose(2, 3)
        distant = self._position_scores(query + attention.bias_v[None, :, None], positions)
        scores = (content + distant) * attention.scaling  # (batch, heads, steps, steps)
        scores = scores.masked_fill(~valid[:, None, None], torch.finfo(scores.dtype).min)
        mixed = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, steps, -1)
        joined: Tensor = attention.o_proj(mixed)
        return joined

    def _position_scores(self, query: Tensor, positions: Tensor) -> Tensor:
        """Scores of the relative positions, shifted so that [i, j] holds the distance i - j.

        Row i of the product holds the distances steps - 1 .. -(steps - 1) and a column of padding; reading the
        flattened rows one short of their length moves each row by one more (Transformer-XL, appendix B).
        """
        batch, heads, steps, head_dim = query.shape
        table = self.block.self_attn.relative_k_proj(positions)
        table = table.view(-1, heads, head_dim).permute(1, 2, 0)  # (heads, head_dim, 2 * steps - 1)
        flat = F.pad(query @ table, (0, 1)).reshape(batch, heads, 2 * steps * steps)
        shifted = flat[:, :, steps - 1 : steps - 1 + steps * (2 * steps - 1)]
        return shifted.reshape(batch, heads, steps, 2 * steps - 1)[..., :steps]

    def _convolve(self, x: Tensor, valid: Tensor) -> Tensor:
        convolution = self.block.conv
        x = F.glu(self.pointwise_1(x), dim=-1) * valid[..., None].to(x.dtype)
        depthwise = convolution.depthwise_conv
        x = convolution.norm(over_time(depthwise, x.transpose(1, 2), depthwise.padding[0]))  # (batch, d_model, steps)
        mixed: Tensor = self.pointwise_2(convolution.activation(x).transpose(1, 2))
        return mixed


def source(config: ModelConfig, spec: GraphSpec) -> GraphSource:
    """Return the source of `encoder_window`."""
    return window_source(config, spec, BidirectionalEncoder, largest_block=None)
