"""Layers that speech may go through before it stands in the LLM's sequence: stacks, Conformer layers, a Q-Former."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, ParakeetEncoderConfig
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderBlock, ParakeetEncoderRelPositionalEncoding

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.prepend import QformerConfig


def stacked(steps: Tensor, lens: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Put steps side by side; the last stack of a row is filled up with zeros.

    Args:
        steps: (batch, steps, width).
        lens: (batch,) int64, how many of them count.
        number: steps of a stack.

    Returns:
        (batch, stacks, number * width), and how many of them count.
    """
    if number == 1:
        return steps, lens
    batch, length, width = steps.shape
    real = torch.arange(length, device=steps.device) < lens[:, None]
    stacks = (length + number - 1) // number
    filled = F.pad(steps * real[..., None].to(steps.dtype), (0, 0, 0, stacks * number - length))
    return filled.reshape(batch, stacks, number * width), (lens + number - 1) // number


class Conformer(nn.Module):
    """FastConformer layers over encoder steps, without sub-sampling. Source: NeMo's `ConformerEncoder`."""

    def __init__(self, fields: dict[str, Any], width: int) -> None:
        """Make fresh weights.

        Args:
            fields: transformers config of Parakeet's encoder.
            width: of an encoder step.
        """
        super().__init__()
        config = ParakeetEncoderConfig(**fields)
        config._attn_implementation = "eager"
        self.input = nn.Linear(width, config.hidden_size)
        self.scale = config.hidden_size**0.5 if config.scale_input else 1.0
        self.positions = ParakeetEncoderRelPositionalEncoding(config)
        self.layers = nn.ModuleList(ParakeetEncoderBlock(config, index) for index in range(config.num_hidden_layers))

    def forward(self, steps: Tensor, lens: Tensor) -> Tensor:
        """Return (batch, steps, hidden_size) of (batch, steps, width), of which the first (batch,) `lens` are valid."""
        x: Tensor = self.input(steps) * self.scale
        valid = torch.arange(x.shape[1], device=x.device) < lens[:, None]  # (batch, steps)
        mask = (valid[:, None] & valid[:, :, None])[:, None]  # (batch, 1, steps, steps)
        positions = self.positions(x)
        for layer in self.layers:
            x = layer(x, attention_mask=mask, position_embeddings=positions)
        return x


class Qformer(nn.Module):
    """Learned queries that attend to the steps of each tap, and a mean of their outputs with learned weights.

    Source: NeMo's `QformerConnector`.
    """

    def __init__(self, config: QformerConfig, width: int, taps: int) -> None:
        """Make fresh weights.

        Args:
            config: its sizes.
            width: of an output of the encoder.
            taps: such outputs side by side in a step.

        Raises:
            ConfigError: if the heads do not divide the width.
        """
        super().__init__()
        if width % config.num_heads:
            raise ConfigError(f"connector.qformer: width {width} is not a multiple of num_heads {config.num_heads}")
        build: Any = BertEncoder  # Any: transformers' models have no types
        bert = BertConfig(
            hidden_size=width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_width,
            is_decoder=True,
            add_cross_attention=True,
        )
        bert._attn_implementation = "eager"
        self.num_queries, self.window = config.num_queries, config.window
        self.queries = nn.ParameterList(torch.randn(1, config.num_queries, width) for _ in range(taps))
        self.tap_weights = nn.Parameter(torch.zeros(config.num_queries, taps))
        self.bert = build(bert)
        self.norm = nn.LayerNorm(width)

    def forward(self, steps: Tensor, lens: Tensor) -> Tensor:
        """Return (batch, queries, width) of (batch, steps, taps * width), or (batch, windows * queries, width).

        Of the steps the first (batch,) `lens` are valid.
        """
        if not self.window:
            return self._attend(steps, lens)
        batch, length, _ = steps.shape
        windows = (length + self.window - 1) // self.window
        filled = F.pad(steps, (0, 0, 0, windows * self.window - length))
        begins = torch.arange(windows, device=steps.device) * self.window
        left = (lens[:, None] - begins).reshape(-1)  # (batch * windows,) valid steps from the window on
        queries = self._attend(filled.reshape(batch * windows, self.window, -1), left)
        return queries.reshape(batch, windows * self.num_queries, -1)

    def number(self, lens: Tensor) -> Tensor:
        """Return how many embeddings of so many steps count, (batch,) int64; see `PrependConfig.llm_positions`."""
        if not self.window:
            return torch.full_like(lens, self.num_queries)
        return lens // self.window * self.num_queries + (lens % self.window).clamp(max=self.num_queries)

    def _attend(self, steps: Tensor, lens: Tensor) -> Tensor:
        taps = len(self.queries)
        valid = torch.arange(steps.shape[1], device=steps.device) < torch.cat([lens] * taps)[:, None]
        mask = torch.where(valid, 0.0, torch.finfo(steps.dtype).min).to(steps.dtype)[:, None, None]
        # Taps are stacked as rows of the batch, so that each weight is used once.
        queries = torch.cat([one.expand(steps.shape[0], -1, -1) for one in self.queries])
        outputs = self.bert(
            queries, encoder_hidden_states=torch.cat(steps.chunk(taps, dim=-1)), encoder_attention_mask=mask
        ).last_hidden_state.unflatten(0, (taps, -1))  # (taps, batch, queries, width)
        shares = self.tap_weights.softmax(-1).T[:, None, :, None]  # (taps, 1, queries, 1)
        normed: Tensor = self.norm((outputs * shares).sum(0))
        return normed
