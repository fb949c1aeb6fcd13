"""Connector kind `prepend` in PyTorch: a projection of speech, which enters the LLM's sequence among the prompt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig, ParakeetEncoderConfig, PreTrainedModel
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderBlock, ParakeetEncoderRelPositionalEncoding

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.prepend import PrependConfig, QformerConfig, prepend
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.model.base import Outputs, Speech

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
        self.conformer = None if config.conformer is None else Conformer(config.conformer, width)
        self.qformer = None if config.qformer is None else Qformer(config.qformer, width // taps, taps)
        width = width if config.conformer is None else config.conformer["hidden_size"]
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
            inputs_embeds=sequence.embeds, attention_mask=sequence.valid.long(), use_cache=False
        ).logits  # (batch, positions, vocab)
        return Outputs(logits.gather(1, sequence.places[..., None].expand(-1, -1, logits.shape[-1])))

    def embeddings(self, speech: Speech | None, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of speech, (batch, positions, hidden), and how many of each row count, (batch,) int64.

        Texts without speech have none. A batch of them runs one step of zeros, so that every weight takes part in it.
        """
        if speech is None:
            return words[:, :0], words.new_zeros(words.shape[0], dtype=torch.int64)
        steps, lens, real = speech.steps, speech.lens, speech.steps.shape[1]
        if not real:
            steps, lens = steps.new_zeros(*steps.shape[:1], 1, steps.shape[2]), torch.ones_like(lens)
        if self.conformer is not None:
            steps = self.conformer(steps, lens)
        if self.qformer is not None:
            steps, lens = self.qformer(steps, lens), torch.full_like(lens, self.qformer.num_queries)
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
    return Sequence(whole, position <= places[:, -1:], places)


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
    """Learned queries that attend to all steps of each tap, and a mean of their outputs with learned weights.

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
        self.num_queries = config.num_queries
        self.queries = nn.ParameterList(torch.randn(1, config.num_queries, width) for _ in range(taps))
        self.tap_weights = nn.Parameter(torch.zeros(config.num_queries, taps))
        self.bert = build(bert)
        self.norm = nn.LayerNorm(width)

    def forward(self, steps: Tensor, lens: Tensor | None) -> Tensor:
        """Return (batch, queries, width) of (batch, steps, taps * width).

        Of the steps the first (batch,) `lens` are valid; None = all.
        """
        taps = len(self.queries)
        mask = None
        if lens is not None:
            valid = torch.arange(steps.shape[1], device=steps.device) < lens.repeat(taps)[:, None]
            mask = torch.where(valid, 0.0, torch.finfo(steps.dtype).min).to(steps.dtype)[:, None, None]
        # Taps are stacked as rows of the batch, so that each weight is used once.
        queries = torch.cat([one.expand(steps.shape[0], -1, -1) for one in self.queries])
        outputs = self.bert(
            queries, encoder_hidden_states=torch.cat(steps.chunk(taps, dim=-1)), encoder_attention_mask=mask
        ).last_hidden_state.unflatten(0, (taps, -1))  # (taps, batch, queries, width)
        shares = self.tap_weights.softmax(-1).T[:, None, :, None]  # (taps, 1, queries, 1)
        normed: Tensor = self.norm((outputs * shares).sum(0))
        return normed


def embed(llm: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, (batch, tokens, hidden)."""
    embeds: Tensor = llm.get_input_embeddings()(token_ids)
    return embeds


def build(config: ModelConfig) -> Prepend:
    """Build the connector of a model."""
    taps = len(windowed(config).taps) if prepend(config).qformer is not None else 1
    return Prepend(prepend(config), config.encoder.width, taps, config.llm["hidden_size"])
