"""Connector kind `cross_adapter` in PyTorch: text attends to speech before the LLM (paper, section 3.1).

`visible_steps` gives the number of speech steps that each token sees. Export traces the same modules step by step, see
`bestow_edge.export.graphs.cross_adapter`.

Legend of shape comments: batch, tokens (text), steps (speech, 80 ms each), heads, head_dim, width (adapter).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.cross_adapter import LSTM_LAYERS, CrossAdapterConfig, cross_adapter
from bestow_edge.model.base import Outputs, Speech


class HeadedAttention(nn.Module):
    """Projections of one multi-head attention, bias on all of them; the caller brings mask and caches."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Split (batch, positions, width) into (batch, heads, positions, head_dim)."""
        batch, positions, width = x.shape
        return x.view(batch, positions, self.num_heads, width // self.num_heads).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Undo `split` and apply the output projection."""
        batch, heads, positions, head_dim = x.shape
        joined: Tensor = self.out(x.transpose(1, 2).reshape(batch, positions, heads * head_dim))
        return joined

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project (batch, positions, width) to keys and values, each (batch, heads, positions, head_dim)."""
        return self.split(self.key(x)), self.split(self.value(x))


class AdapterLayer(nn.Module):
    """Causal self-attention over text (if it is the text mixer), cross-attention to speech, feed-forward."""

    def __init__(self, config: CrossAdapterConfig) -> None:
        super().__init__()
        width = config.width
        if config.text_mixer == "attention":
            self.norm_self = nn.LayerNorm(width)
            self.self_attention = HeadedAttention(width, config.num_heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = HeadedAttention(width, config.num_heads)
        self.norm_ffn = nn.LayerNorm(width)
        inner, activation = config.ffn_factor * width, nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.ffn = nn.Sequential(nn.Linear(width, inner), activation, nn.Linear(inner, width))

    def null(self) -> tuple[Tensor, Tensor]:
        """Key and value of the all-zero null frame: the projections' biases, each (1, heads, 1, head_dim)."""
        attention = self.cross_attention
        return attention.split(attention.key.bias[None, None]), attention.split(attention.value.bias[None, None])


class Adapter(nn.Module):
    """X layers between the token embeddings and the LLM, with a global residual around all of them.

    No positional encoding unless the config asks for one. Speech is projected but not layer-normed; one null frame
    (zeros) is always visible. Source: paper section 3.1 and Table 4; the null frame and the prompt's mask follow the
    authors' public code. Positions, embeddings of its own, parts of steps and a missing residual are those of a Whisper
    decoder before an LLM.
    """

    def __init__(self, config: CrossAdapterConfig, speech_width: int, llm_width: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.speech_in = _linear(speech_width // config.speech_parts, config.width)
        if config.own_embedding:
            self.words = nn.Embedding(vocab_size, config.width)
        else:
            self.text_in = _linear(llm_width, config.width)
        if config.positions:
            self.places = nn.Embedding(config.positions, config.width)
        if config.text_mixer == "lstm":
            self.norm_lstm = nn.LayerNorm(config.width)
            self.lstm = nn.LSTM(config.width, config.width, num_layers=LSTM_LAYERS, batch_first=True)
        layers = [AdapterLayer(config) for _ in range(config.num_layers)]
        self.layers: Any = nn.ModuleList(layers)  # Any: ModuleList forgets its items' type
        self.norm_out = nn.LayerNorm(config.width)
        self.text_out = nn.Linear(config.width, llm_width)

    def answer(
        self, llm: PreTrainedModel, token_ids: Tensor, speech: Speech | None, visible_steps: Tensor, *, with_llm: bool
    ) -> Outputs:
        """See `SpeechModel.forward`."""
        words: Tensor = llm.get_input_embeddings()(token_ids)  # (batch, tokens, hidden)
        embeddings, alignment, added = words, None, None
        if speech is not None:
            added, alignment = self.align(token_ids, words, speech.steps, visible_steps)
            embeddings = words + added if self.config.residual else added
        logits = llm(inputs_embeds=embeddings, use_cache=False).logits if with_llm else embeddings[:, :0]
        return Outputs(logits, alignment, added)

    def start_silent(self) -> None:
        """Make its output zero, so that an LLM that was trained before writes as it did."""
        nn.init.zeros_(self.text_out.weight)
        nn.init.zeros_(self.text_out.bias)

    def embed(self, token_ids: Tensor, embeddings: Tensor | None, past_tokens: Tensor | None = None) -> Tensor:
        """Return (batch, tokens, width), what the first layer takes.

        Args:
            token_ids: (batch, tokens) int64.
            embeddings: (batch, tokens, llm_width) float, the LLM's token embeddings; not used beside embeddings of its
                own.
            past_tokens: (batch,) int64 tokens before these; None for none.
        """
        x: Tensor = self.words(token_ids) if self.config.own_embedding else self.text_in(embeddings)
        if not self.config.positions:
            return x
        place = torch.arange(token_ids.shape[1], device=x.device)[None]
        places: Tensor = self.places(place if past_tokens is None else place + past_tokens[:, None])
        return x + places

    def take_apart(self, speech: Tensor) -> Tensor:
        """Return (batch, steps * parts, part_width) of (batch, steps, speech_width)."""
        return speech.reshape(speech.shape[0], -1, speech.shape[2] // self.config.speech_parts)

    def align(
        self, token_ids: Tensor, embeddings: Tensor, speech: Tensor, visible_steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the connector adds to the LLM's embeddings, and where each token looked for it.

        Args:
            token_ids: (batch, tokens) int64.
            embeddings: (batch, tokens, llm_width) float, token embeddings.
            speech: (batch, steps, speech_width) float, encoder output.
            visible_steps: (batch, tokens) int64, speech steps each token sees; padded steps must lie behind them.

        Returns:
            (batch, tokens, llm_width) float, and (batch, tokens, steps + 1) float cross-attention of the last layer,
            mean over heads, the null frame last.
        """
        bypassed = (visible_steps == 0) & (self.config.prompt_mode == "bypass")  # (batch, tokens)
        parts = self.config.speech_parts
        speech = with_null(self.speech_in(self.take_apart(speech)))  # (batch, steps * parts + null, width)
        mask = cross_mask(parts * visible_steps, speech.shape[1], alone=self.config.null_frame == "alone")
        x = self.embed(token_ids, embeddings)  # (batch, tokens, width)
        if self.config.text_mixer == "lstm":
            x = x + self.lstm(self.norm_lstm(x))[0]
        self_mask = self._self_mask(bypassed)
        alignment = x
        for layer in self.layers:
            x, alignment = self._layer(layer, x, speech, self_mask, mask)
        change: Tensor = self.text_out(self.norm_out(x)) * ~bypassed[..., None]
        return change, by_step(alignment, parts)

    def _layer(
        self, layer: AdapterLayer, x: Tensor, speech: Tensor, self_mask: Tensor, cross_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.config.text_mixer == "attention":
            own = layer.norm_self(x)
            x = x + self._attend(layer.self_attention, own, own, self_mask)[0]
        mixed, weights = self._attend(layer.cross_attention, layer.norm_cross(x), speech, cross_mask)
        x = x + mixed
        return x + F.dropout(layer.ffn(layer.norm_ffn(x)), self.config.dropout, self.training), weights.mean(1)

    def _attend(self, attention: HeadedAttention, x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `attend`; with dropout."""
        mixed, weights = attend(attention, x, source, mask)
        return F.dropout(mixed, self.config.dropout, self.training), weights

    @staticmethod
    def _self_mask(bypassed: Tensor) -> Tensor:
        tokens = bypassed.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=bypassed.device).tril()
        own = torch.eye(tokens, dtype=torch.bool, device=bypassed.device)  # keeps bypassed rows from being empty
        return (causal & (~bypassed[:, None, :] | own))[:, None]  # (batch, 1, tokens, tokens)


def with_null(speech: Tensor) -> Tensor:
    """Return (batch, steps + null, width): projected speech with the null frame, zeros, behind it."""
    return F.pad(speech, (0, 0, 0, 1))


def cross_mask(visible_steps: Tensor, length: int, *, alone: bool = False) -> Tensor:
    """Return what each token sees of speech with the null frame behind it.

    Args:
        visible_steps: (batch, tokens) int64 steps that each token sees.
        length: steps and null frame.
        alone: tokens with visible speech do not see the null frame.

    Returns:
        (batch, 1, tokens, length) bool.
    """
    step = torch.arange(length, device=visible_steps.device)
    null = (step == length - 1) & ((visible_steps[..., None] == 0) | (not alone))
    return ((step < visible_steps[..., None]) | null)[:, None]


def attend(attention: HeadedAttention, x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mix, (batch, tokens, width), and the weights, (batch, heads, tokens, positions of source)."""
    keys, values = attention.keys_values(source)
    scores = attention.split(attention.query(x)) @ keys.transpose(2, 3) * keys.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return attention.join(weights.to(values.dtype) @ values), weights


def by_step(weights: Tensor, parts: int) -> Tensor:
    """Add up attention over the parts of steps: (..., steps * parts + 1) to (..., steps + 1), the null frame last."""
    if parts == 1:
        return weights
    steps = weights[..., :-1].reshape(*weights.shape[:-1], -1, parts).sum(-1)
    return torch.cat([steps, weights[..., -1:]], dim=-1)


def _linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)


def build(config: ModelConfig) -> Adapter:
    """Return a fresh adapter for a model."""
    llm = config.llm
    return Adapter(cross_adapter(config), config.encoder.width, llm["hidden_size"], llm["vocab_size"])
