"""A whole model in PyTorch: encoder -> connector -> LLM, as training runs it over whole sequences.

Encoder and LLM are transformers classes built from their own configs; the connector is ours. This file and the
connector's `answer` are the only ones that put the parts together.

Legend of shape comments: batch, frames (10 ms), steps (80 ms), tokens (text), width (encoder), hidden (LLM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.kinds import module_of
from bestow_edge.model.pretrained.configs import refused


@dataclass(frozen=True, slots=True)
class Speech:
    """Encoded utterances."""

    steps: Tensor
    """(batch, steps, width) float."""
    lens: Tensor
    """(batch,) int64 valid steps."""
    chunk: int = 0
    """Steps that were encoded together and that later ones never change; 0 = all."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Result of a model for whole sequences."""

    logits: Tensor
    """(batch, tokens, vocab) float: of the token after each; (batch, 0, hidden) if the LLM was left out."""
    alignment: Tensor | None = None
    """(batch, tokens, steps + 1) float: the last layer's attention to speech, mean over heads, the null frame last.
    None without speech and where a connector has no attention of its own."""
    added: Tensor | None = None
    """(batch, tokens, hidden) float: what the connector adds to the token embeddings. None without speech and where a
    connector adds nothing to them."""


class Connector(Protocol):
    """Where speech enters the LLM: an `nn.Module` that `build` of `model/connectors/<kind>.py` makes."""

    def answer(
        self, llm: PreTrainedModel, token_ids: Tensor, speech: Speech | None, visible_steps: Tensor, *, with_llm: bool
    ) -> Outputs:
        """Run whole sequences; arguments and result are those of `SpeechModel.forward`."""

    def start_silent(self) -> None:
        """Let the LLM write as it did without speech, until training changes that."""


class SpeechModel(nn.Module):
    """Speech encoder, connector and decoder-only LLM."""

    def __init__(self, config: ModelConfig, encoder: PreTrainedModel, llm: PreTrainedModel) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.llm = llm
        if config.rotary == "bfloat16":  # no file holds these buffers: transformers computes them in float32
            for name, buffer in llm.named_buffers():
                if name.endswith("inv_freq"):
                    buffer.copy_(buffer.bfloat16())
        build = module_of("bestow_edge.model.connectors", config.connector.kind).build
        self.connector: Any = build(config)  # Any: a Connector and an nn.Module at once

    @classmethod
    def from_config(cls, config: ModelConfig) -> SpeechModel:
        """Build a model with fresh random weights.

        Raises:
            ConfigError: if transformers has no such encoder or LLM.
        """
        build_llm: Any = AutoModelForCausalLM.from_config  # Any: transformers' auto classes have no types
        networks = _transformers_config(config.encoder.network, "encoder"), _transformers_config(config.llm, "llm")
        with refused("encoder: transformers refuses to build it"):
            encoder = build_encoder(networks[0])
        with refused("llm: transformers refuses to build it"):
            llm = build_llm(networks[1])  # sdpa, unless the family needs eager (Gemma 2)
        return cls(config, encoder, llm)

    def encode(self, mel: Tensor, frame_lens: Tensor, right_context: int | None = None) -> Speech:
        """Encode whole utterances.

        Args:
            mel: (batch, frames, mel_bins) float log-mel, zero behind each length.
            frame_lens: (batch,) int64 valid frames.
            right_context: steps of the future that each step hears, where the kind of encoder has a choice; None for
                the config's default.
        """
        mask = torch.arange(mel.shape[1], device=mel.device) < frame_lens[:, None]
        encode = module_of("bestow_edge.model.encoders", self.config.encoder.network["model_type"]).encode
        chosen = self.config.encoder.default_right_context if right_context is None else right_context
        steps, lens = encode(self.encoder, self.config.encoder, mel, mask, chosen)
        return Speech(steps, lens, self.config.encoder.chunk_steps(chosen))

    def forward(
        self, token_ids: Tensor, speech: Speech | None, visible_steps: Tensor, *, with_llm: bool = True
    ) -> Outputs:
        """Run whole sequences.

        Args:
            token_ids: (batch, tokens) int64, prompt and answer, padded on the right.
            speech: from `encode`; None for texts without speech, which bypass the connector.
            visible_steps: (batch, tokens) int64 from `bestow_edge.core.policy.visible_steps`.
            with_llm: run the LLM too, not the connector alone.
        """
        return cast(Connector, self.connector).answer(self.llm, token_ids, speech, visible_steps, with_llm=with_llm)


def build_encoder(config: Any) -> PreTrainedModel:  # Any: a PretrainedConfig subclass of many
    """Build the encoder of a transformers config, with fresh weights."""
    encoder: PreTrainedModel = module_of("bestow_edge.model.encoders", config.model_type).build(config)
    return encoder


def _transformers_config(values: dict[str, Any], part: str) -> Any:  # Any: a PretrainedConfig subclass of many
    options = dict(values)
    with refused(f"{part}: transformers refuses this config"):
        return AutoConfig.for_model(options.pop("model_type"), **options)
