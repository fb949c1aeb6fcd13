"""Connector kind `prepend` in PyTorch: a projection of speech, which enters the LLM's sequence among the prompt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.prepend import PrependConfig, prepend
from bestow_edge.core.specs.windowed import WindowedConfig, windowed
from bestow_edge.model.base import Outputs, Speech
from bestow_edge.model.connectors.ctc_compressor import compress
from bestow_edge.model.connectors.speech_layers import Conformer, Qformer, stacked

EMBEDDING_STD = 0.02  # of the token embeddings of most LLMs


class Prepend(nn.Module):
    """The way of speech into the LLM's sequence."""

    def __init__(self, config: PrependConfig, width: int, taps: int, hidden: int) -> None:
        """Make fresh weights.

        Args:
            config: the connector's.
            width: of an encoder step.
            taps: outputs of layers side by side in a step.
            hidden: width of the LLM.
        """
        super().__init__()
        self.config = config
        self.ctc_head = nn.Linear(width, config.compressor.labels + 1) if config.compressor is not None else None
        self.conformer = None if config.conformer is None else Conformer(config.conformer, width * config.stack)
        self.qformer = None if config.qformer is None else Qformer(config.qformer, width // taps, taps)
        width = width * config.stack if config.conformer is None else config.conformer["hidden_size"]
        width = width if config.qformer is None else width // taps
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
        """See `SpeechModel.forward`.

        Raises:
            ConfigError: without the LLM, in whose sequence the speech stands.
        """
        if not with_llm:
            raise ConfigError("connector prepend: speech stands in the LLM's sequence; leave out objective reading")
        words = embed(llm, token_ids)  # (batch, tokens, hidden)
        embeds, lens = self.embeddings(speech, words)
        sequence = insert(words, token_ids == self.config.speech_token, embeds, lens)
        untyped: Any = llm  # Any: transformers' models have no types
        logits = untyped(
            inputs_embeds=sequence.embeds, attention_mask=self.mask(sequence), use_cache=False
        ).logits  # (batch, positions, vocab)
        return Outputs(logits.gather(1, sequence.places[..., None].expand(-1, -1, logits.shape[-1])))

    def mask(self, sequence: Sequence) -> Tensor:
        """Return the LLM's attention mask, (batch, positions) int64.

        Where speech sees all speech, it is (batch, 1, positions, positions) float, added to the scores.
        """
        if self.config.mask == "causal":
            return sequence.valid.long()
        position = torch.arange(sequence.valid.shape[1], device=sequence.valid.device)
        both = sequence.speech[:, None] & sequence.speech[:, :, None]  # (batch, positions, positions)
        visible = (position <= position[:, None]) | both
        least = torch.finfo(sequence.embeds.dtype).min
        return torch.where(visible, 0.0, least).to(sequence.embeds.dtype)[:, None]

    def embeddings(self, speech: Speech | None, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of speech, (batch, positions, hidden), and how many of each row count, (batch,) int64.

        Texts without speech have none. A batch of them runs one step of zeros, so that every weight takes part in it.
        """
        if speech is None:
            return words[:, :0], words.new_zeros(words.shape[0], dtype=torch.int64)
        steps, lens, real = speech.steps, speech.lens, speech.steps.shape[1]
        if not real:
            steps, lens = steps.new_zeros(*steps.shape[:1], 1, steps.shape[2]), torch.ones_like(lens)
        if self.config.compressor is not None and self.ctc_head is not None:
            labels = self.ctc_head(steps).argmax(-1)
            steps, ends = compress(steps, labels, lens, self.config.compressor, speech.chunk)
            lens = (ends > 0).sum(-1)
        steps, lens = stacked(steps, lens, self.config.stack)
        if self.conformer is not None:
            steps = self.conformer(steps, lens)
        if self.qformer is not None:
            steps, lens = self.qformer(steps, lens), self.qformer.number(lens)
        embeds = self.projection(self.hidden(steps)).to(words.dtype)
        return (embeds, lens) if real else (embeds[:, :0], torch.zeros_like(lens))

    def start_silent(self) -> None:
        """Let speech begin about as loud as the embeddings of words: far louder speech drowns them.

        It stands in the LLM's sequence from the begin, so the LLM never writes as it did without.
        """
        with torch.no_grad():
            weight = self.projection.weight
            weight.mul_(EMBEDDING_STD / (weight.std() * weight.shape[1] ** 0.5))
            self.projection.bias.zero_()


class Sequence(NamedTuple):
    """The LLM's sequences with speech among the tokens."""

    embeds: Tensor
    """(batch, positions, hidden) float."""
    valid: Tensor
    """(batch, positions) bool, positions that are not padding."""
    places: Tensor
    """(batch, tokens) int64, the position of each token; that of the speech token is the last one of the speech."""
    speech: Tensor
    """(batch, positions) bool, positions of speech."""


def insert(words: Tensor, marks: Tensor, embeds: Tensor, lens: Tensor) -> Sequence:
    """Put speech in the place of its token. A row without the token gets no speech; without speech the token goes.

    Args:
        words: (batch, tokens, hidden) embeddings of tokens.
        marks: (batch, tokens) bool, the token whose place speech takes, at most one in a row.
        embeds: (batch, steps, hidden) embeddings of speech.
        lens: (batch,) int64, how many of them count.
    """
    tokens = words.shape[1]
    marked = marks.any(-1, keepdim=True)  # (batch, 1)
    first = torch.where(marked, marks.int().argmax(-1, keepdim=True), tokens)
    lens = lens[:, None] * marked
    position = torch.arange(tokens + embeds.shape[1], device=words.device)  # (positions,)
    behind = position - lens + marked.long()  # (batch, positions), the token there if it is behind the speech
    source = torch.where(position < first + lens, tokens + position - first, behind)
    source = torch.where(position < first, position, source).clamp(0, position.shape[0] - 1)
    whole = torch.cat([words, embeds], dim=1).gather(1, source[..., None].expand(-1, -1, words.shape[-1]))
    added = (lens - 1) * (marks.cumsum(-1) > 0)
    places = (torch.arange(tokens, device=words.device) + added).clamp(min=0)  # (batch, tokens)
    return Sequence(whole, position <= places[:, -1:], places, (position >= first) & (position < first + lens))


def embed(llm: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, (batch, tokens, hidden)."""
    embeds: Tensor = llm.get_input_embeddings()(token_ids)
    return embeds


def build(config: ModelConfig) -> Prepend:
    """Build the connector of a model."""
    taps = len(windowed(config).taps) if isinstance(config.encoder, WindowedConfig) else 0
    taps = max(1, taps) if prepend(config).qformer is not None else 1
    return Prepend(prepend(config), config.encoder.width, taps, config.llm["hidden_size"])
