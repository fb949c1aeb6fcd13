"""Connector kind `prepend` in PyTorch: a projection of speech, which enters the LLM's sequence among the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import ParakeetEncoderConfig, PreTrainedModel
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderBlock, ParakeetEncoderRelPositionalEncoding

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.prepend import PrependConfig, prepend
from bestow_edge.model.base import Outputs, Speech


class Prepend(nn.Module):
    """The way of speech into the LLM's sequence."""

    def __init__(self, config: PrependConfig, width: int, hidden: int) -> None:
        """Make fresh weights.

        Args:
            config: the connector's.
            width: of an encoder step.
            hidden: width of the LLM.
        """
        super().__init__()
        self.config = config
        self.conformer = None if config.conformer is None else Conformer(config.conformer, width)
        width = width if config.conformer is None else config.conformer["hidden_size"]
        self.hidden = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU()) if config.hidden else nn.Identity()
        self.projection = nn.Linear(config.hidden or width, hidden)

    def answer(
        self,
        llm: PreTrainedModel,
        token_ids: Tensor,
        speech: Speech | None,
        visible_steps: Tensor,  # noqa: ARG002 - every token behind the speech sees all of it
        *,
        with_llm: bool,
    ) -> Outputs:
        """See `SpeechModel.forward`."""
        words = embed(llm, token_ids)  # (batch, tokens, hidden)
        embeds, mask, places = words, torch.ones_like(token_ids), None
        if speech is not None:
            embeds, mask, places = self._insert(words, token_ids, speech)
        if not with_llm:
            return Outputs(embeds[:, :0])
        untyped: Any = llm  # Any: transformers' models have no types
        logits = untyped(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        if places is not None:
            logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))
        return Outputs(logits)

    def _insert(self, words: Tensor, token_ids: Tensor, speech: Speech) -> tuple[Tensor, Tensor, Tensor]:
        """Put speech in the place of its token.

        Returns:
            Embeddings (batch, positions, hidden), their mask (batch, positions) int64, and the position of each token,
            (batch, tokens) int64; that of the speech token is the last step of the speech.
        """
        batch, tokens, hidden = words.shape
        steps = speech.steps if self.conformer is None else self.conformer(speech.steps, speech.lens)
        embeds = self.projection(self.hidden(steps)).to(words.dtype)  # (batch, steps, hidden)
        is_speech = token_ids == self.config.speech_token
        lens = speech.lens * is_speech.any(-1)  # (batch,); a prompt without the token has no speech
        added = (lens - 1)[:, None] * (is_speech.cumsum(-1) > 0)  # the token itself goes
        places = torch.arange(tokens, device=words.device) + added  # (batch, tokens)
        numbers = torch.arange(embeds.shape[1], device=words.device)
        first = is_speech.int().argmax(-1)  # (batch,)
        row = torch.arange(batch, device=words.device)[:, None]
        whole = words.new_zeros(batch, tokens + embeds.shape[1], hidden)
        whole = whole.index_put((row, places), words)
        rows, steps = (numbers < lens[:, None]).nonzero(as_tuple=True)
        whole = whole.index_put((rows, first[rows] + steps), embeds[rows, steps])
        mask = torch.arange(whole.shape[1], device=words.device) <= places[:, -1:]
        return whole, mask.long(), places

    def start_silent(self) -> None:
        """Let all speech begin as the zero embedding."""
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)


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


def embed(llm: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, (batch, tokens, hidden)."""
    embeds: Tensor = llm.get_input_embeddings()(token_ids)
    return embeds


def build(config: ModelConfig) -> Prepend:
    """Build the connector of a model."""
    return Prepend(prepend(config), config.encoder.width, config.llm["hidden_size"])
