"""Connector kind `prepend` in PyTorch: a projection of speech, which enters the LLM's sequence among the prompt."""

from __future__ import annotations

from typing import Any

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
        steps, lens = speech.steps, speech.lens
        if self.conformer is not None:
            steps = self.conformer(steps, lens)
        if self.qformer is not None:
            steps, lens = self.qformer(steps, lens), torch.full_like(lens, self.qformer.num_queries)
        embeds = self.projection(self.hidden(steps)).to(words.dtype)  # (batch, steps or queries, hidden)
        is_speech = token_ids == self.config.speech_token
        lens = lens * is_speech.any(-1)  # (batch,); a prompt without the token has no speech
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
