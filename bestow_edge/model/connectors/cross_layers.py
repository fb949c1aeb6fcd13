"""Connector kind `cross_layers` in PyTorch: Whisper's decoder, which attends to speech in every layer.

It has no weights of its own. Utterances of one batch must be equally long: the decoder takes no mask over speech.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_layers import CrossLayersConfig, cross_layers
from bestow_edge.model.base import Outputs, Speech


class CrossLayers(nn.Module):
    """The way of speech into the decoder."""

    barred: Tensor  # (vocab,) bool

    def __init__(self, config: CrossLayersConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        barred = torch.zeros(vocab_size, dtype=torch.bool)
        barred[list(config.suppressed)] = True
        barred[config.specials_from or vocab_size :] = True
        self.register_buffer("barred", barred, persistent=False)

    def answer(
        self,
        llm: PreTrainedModel,
        token_ids: Tensor,
        speech: Speech | None,
        visible_steps: Tensor,  # noqa: ARG002 - every token sees all of the speech
        *,
        with_llm: bool,
    ) -> Outputs:
        """See `SpeechModel.forward`.

        Raises:
            ConfigError: for texts without speech: the decoder has no other use.
        """
        if speech is None or not with_llm:
            raise ConfigError("connector cross_layers: its LLM reads speech alone; leave out stages with texts")
        whisper: Any = llm  # Any: transformers' models have no types
        positions = speech.steps.reshape(token_ids.shape[0], -1, whisper.config.d_model)
        out = whisper.model.decoder(input_ids=token_ids, encoder_hidden_states=positions, use_cache=False)
        logits = whisper.get_output_embeddings()(out.last_hidden_state)
        return Outputs(suppress(logits, self.barred))

    def start_silent(self) -> None:
        """Nothing to do: there is no LLM without speech."""


def suppress(logits: Tensor, barred: Tensor) -> Tensor:
    """Give some tokens the least logit there is, so that they are never chosen and all numbers stay finite.

    Args:
        logits: (..., vocab) float.
        barred: (vocab,) bool.
    """
    return torch.where(barred, logits.amin(-1, keepdim=True), logits)


def build(config: ModelConfig) -> CrossLayers:
    """Build the connector of a model."""
    return CrossLayers(cross_layers(config), config.llm["vocab_size"])
