"""Export of a decoder-only LLM to the `llm_step` graph, which takes embeddings instead of tokens.

Drives the unchanged transformers model with its own attention function: queries are scored against the cache buffer
and against the new tokens' keys separately, so the graph reads the buffer in place and returns the new slots only.
Standard ONNX operators, one graph for prefill, later prefill and decoding, each batch row with its own past.
No architecture is named: a comparison with the model itself finds attention that the interface cannot express.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ExportError, ParityError
from bestow_edge.core.specs.llm import MUTUAL_TOKENS, check_exportable, embedding_spec, llm_spec, scoring_several
from bestow_edge.core.tensors import BATCH, CAPACITY, PAST_TOKENS, SCORED, SCORED_TOKENS, TOKEN_IDS, TOKENS
from bestow_edge.export.graphs.attention import store
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource, traced_from
from bestow_edge.model.base import SpeechModel

PARITY_TOLERANCE = 1e-4  # relative to the largest logit; float32 with another order of summation gives about 1e-6
_ATTENTION = "bestow_edge_split"
_SAMPLE_CAPACITY = 8  # slots of the traced buffer, unlike every other traced size
_SAMPLE_TOKENS = 5
_SAMPLE_SPLIT = 3  # tokens of the first of the two sample steps

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@contextmanager
def llm_step(llm: PreTrainedModel, *, mutual: bool = False, several: bool = False) -> Iterator[LlmStep]:
    """Yield `llm` without its token embedding as a module with the inputs and outputs of `llm_spec`.

    The module works, and can be traced, inside the block only. It was compared with the model itself first.

    Args:
        llm: float32 model with a language-model head that accepts `inputs_embeds`. Left as it was.
        mutual: whether some new tokens see each other in both directions, see `llm_spec`.
        several: whether several tokens are scored, see `scoring_several`; excludes `mutual`.

    Raises:
        ExportError: if the model is not float32 or keeps other state than keys and values.
        ParityError: if the graph computes something else, because the model's attention is not the plain kind.
    """
    check_exportable(llm.config.to_dict(), "LLM")
    if llm.dtype != torch.float32:
        raise ExportError(f"LLM weights are {llm.dtype}, expected torch.float32; call llm.float() before exporting")
    with torch.no_grad(), _evaluating(llm):
        token_ids = torch.arange(2 * _SAMPLE_TOKENS).reshape(2, -1) % llm.config.get_text_config().vocab_size
        embeds = llm.get_input_embeddings()(token_ids)  # (batch, tokens, hidden)
        expected, caches = _reference(llm, embeds)
        with _split_attention(llm, stored=several) as attention:
            step = LlmStep(llm, attention).train(False)
            _check_parity(step, embeds, expected, caches)
            kind = MutualLlmStep if mutual else SeveralLlmStep if several else LlmStep
            yield kind(llm, attention).train(False)


class _SplitAttention:
    """Attention over a cache buffer and the new tokens without joining them; holds one step's tensors."""

    def __init__(self, *, stored: bool) -> None:
        """With `stored`, new tokens take their slots in copies of the buffers, see `stored_attend`."""
        self.stored = stored
        self.past_tokens = torch.zeros(0, dtype=torch.int64)  # (batch,)
        self.caches: tuple[Tensor, ...] = ()  # per layer keys, values: (batch, kv_heads, capacity, head_dim)
        self.mutual: Tensor | None = None  # (batch,)
        self.new: dict[int, tuple[Tensor, Tensor]] = {}  # by layer: (batch, kv_heads, tokens, head_dim)

    def begin(self, past_tokens: Tensor, caches: tuple[Tensor, ...], mutual: Tensor | None = None) -> None:
        """Start a step: `past_tokens` (batch,), per layer the key and the value buffer, `mutual` tokens (batch,)."""
        self.past_tokens, self.caches, self.new, self.mutual = past_tokens, caches, {}, mutual

    def mask(self, *, q_length: int, mask_function: MaskFunction, dtype: torch.dtype, **_: object) -> Tensor:
        """Additive mask (batch, 1, tokens, capacity + tokens), transformers' `AttentionMaskInterface`.

        `mask_function` brings the layer type's rule (causal, sliding window, chunked) as a function of positions.
        """
        past = self.past_tokens[:, None, None, None]  # (batch, 1, 1, 1)
        batch = torch.arange(self.past_tokens.shape[0])[:, None, None, None]
        slots = torch.arange(self.caches[0].shape[2])  # (capacity,)
        tokens = past + torch.arange(q_length)  # (batch, 1, 1, tokens)
        queries = tokens.transpose(2, 3)  # (batch, 1, tokens, 1)
        head = torch.zeros(1, dtype=torch.int64)
        old = mask_function(batch, head, queries, slots)  # (batch, 1, tokens, capacity)
        if self.stored:  # of the slots behind the new tokens too: no token sees later ones
            return _additive(old, dtype)
        old = old & (slots < past)
        new = mask_function(batch, head, queries, tokens)  # (batch, 1, tokens, tokens)
        if self.mutual is not None:
            first = torch.arange(q_length) < self.mutual[:, None]  # (batch, tokens)
            new = new | (first[:, None, None] & first[:, None, :, None])
        return _additive(torch.cat([old, new], dim=-1), dtype)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        """Attention of one layer, transformers' `AttentionInterface`.

        Args:
            module: the layer's attention, with its `layer_idx`.
            query: (batch, heads, tokens, head_dim), rotated.
            key: (batch, kv_heads, tokens, head_dim), rotated.
            value: (batch, kv_heads, tokens, head_dim).
            attention_mask: from `mask`.
            scaling: factor on the scores; head_dim ** -0.5 when None.
            softcap: bound that the scores approach, as in Gemma 2; None: no bound.

        Returns:
            (batch, tokens, heads, head_dim), and no weights.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]  # nn.Module types attributes as tensors
        past_key, past_value = self.caches[2 * layer], self.caches[2 * layer + 1]
        self.new[layer] = (key, value)
        batch, heads, tokens, head_dim = query.shape
        kv_heads, capacity = past_key.shape[1], past_key.shape[2]
        scale = head_dim**-0.5 if scaling is None else scaling
        # The heads that share keys become rows of one product: the buffer is never repeated.
        rows = (query * scale).reshape(batch, kv_heads, -1, head_dim)  # (batch, kv_heads, group * tokens, head_dim)
        if self.stored:
            keys, values = store(past_key, key, self.past_tokens), store(past_value, value, self.past_tokens)
            scores = rows @ keys.transpose(2, 3)
        else:
            scores = torch.cat([rows @ past_key.transpose(2, 3), rows @ key.transpose(2, 3)], dim=-1)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        mask = torch.cat([attention_mask] * (heads // kv_heads), dim=2)  # (batch, 1, group * tokens, capacity + tokens)
        weights = torch.softmax(scores + mask, dim=-1)
        if self.stored:
            mixed = weights @ values
        else:
            mixed = weights[..., :capacity] @ past_value + weights[..., capacity:] @ value
        return mixed.reshape(batch, heads, tokens, head_dim).transpose(1, 2), None


class LlmStep(nn.Module):
    """The exported function."""

    def __init__(self, llm: PreTrainedModel, attention: _SplitAttention) -> None:
        super().__init__()
        self.llm = llm
        self.attention = attention

    def forward(self, inputs_embeds: Tensor, past_tokens: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return logits (batch, vocab), the best token and its log-probability (batch,), new keys and values."""
        logits, *new = self._run(inputs_embeds, past_tokens, None, caches)
        return (logits[:, -1], *best_token(logits[:, -1]), *new)

    def _run(
        self,
        inputs_embeds: Tensor,
        past_tokens: Tensor,
        mutual: Tensor | None,
        caches: tuple[Tensor, ...],
        scored: int | Tensor = 1,
    ) -> list[Tensor]:
        """Return logits (batch, scored, vocab) of the last tokens or of those at some places, new keys and values."""
        self.attention.begin(past_tokens, caches, mutual)
        batch, tokens, _ = inputs_embeds.shape
        output = self.llm(
            inputs_embeds=inputs_embeds,
            # All ones: without it transformers looks for packed sequences in the positions.
            attention_mask=torch.ones(batch, tokens, dtype=torch.int64),
            position_ids=past_tokens[:, None] + torch.arange(tokens),  # (batch, tokens)
            use_cache=False,
            logits_to_keep=scored,
        )
        new = self.attention.new
        if sorted(new) != list(range(len(caches) // 2)):
            raise ExportError(
                f"{type(self.llm).__name__}: {len(new)} of {len(caches) // 2} layers went through transformers' "
                "AttentionInterface; choose an LLM whose layers all do (Llama, Qwen, Mistral, Gemma 3 and the like)"
            )
        return [output.logits.float(), *(tensor for layer in sorted(new) for tensor in new[layer])]


class MutualLlmStep(LlmStep):
    """The exported function with new tokens that see each other in both directions."""

    def forward(  # type: ignore[override]  # one input more
        self, inputs_embeds: Tensor, past_tokens: Tensor, mutual_tokens: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """See `LlmStep.forward`; the first `mutual_tokens` (batch,) of the new tokens see each other."""
        logits, *new = self._run(inputs_embeds, past_tokens, mutual_tokens, caches)
        return (logits[:, -1], *best_token(logits[:, -1]), *new)


class SeveralLlmStep(LlmStep):
    """The exported function that scores several of the new tokens."""

    def forward(  # type: ignore[override]  # one input more
        self, inputs_embeds: Tensor, past_tokens: Tensor, scored_tokens: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """See `LlmStep.forward`; results have an axis `scored` behind the batch, for the places `scored_tokens`."""
        logits, *new = self._run(inputs_embeds, past_tokens, None, caches, scored_tokens)
        return (logits, *best_token(logits), *new)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return zeros where a bool mask allows, elsewhere the least number there is."""
    return torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)


def best_token(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable token and its natural log-probability, (...) each, of (..., vocab) logits."""
    return logits.argmax(-1), torch.log_softmax(logits, -1).amax(-1)


@contextmanager
def _evaluating(llm: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = llm.training
    llm.train(False)
    try:
        yield
    finally:
        llm.train(was_training)


@contextmanager
def _split_attention(llm: PreTrainedModel, *, stored: bool) -> Iterator[_SplitAttention]:
    """Let `llm` compute attention with a `_SplitAttention` for a while."""
    attention = _SplitAttention(stored=stored)
    AttentionInterface.register(_ATTENTION, attention.attend)
    AttentionMaskInterface.register(_ATTENTION, attention.mask)
    before = llm.config._attn_implementation
    llm.set_attn_implementation(_ATTENTION)
    try:
        yield attention
    finally:
        llm.set_attn_implementation(before)
        attention.begin(torch.zeros(0, dtype=torch.int64), ())  # the registries keep the object: drop its tensors


def _reference(llm: PreTrainedModel, embeds: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits (batch, vocab) of the model itself, and empty buffers in the shapes of its keys and values."""
    cache = DynamicCache(config=llm.config)
    output = llm(inputs_embeds=embeds, **{_cache_name(llm): cache}, use_cache=True, logits_to_keep=1)
    buffers = []
    for index, layer in enumerate(cache.layers):
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            kind = type(layer).__name__
            raise ExportError(
                f"{type(llm).__name__}: layer {index} keeps {kind}, expected keys and values; choose another LLM"
            )
        for states in (layer.keys, layer.values):
            batch, kv_heads, _, head_dim = states.shape
            buffers.append(torch.zeros(batch, kv_heads, _SAMPLE_CAPACITY, head_dim))
    return output.logits[:, -1], tuple(buffers)


def _cache_name(llm: PreTrainedModel) -> str:
    """Return the name of the argument that takes the cache: transformers 5.24 renamed it in many models."""
    return "cache" if "cache" in signature(llm.forward).parameters else "past_key_values"


def _check_parity(step: LlmStep, embeds: Tensor, expected: Tensor, caches: tuple[Tensor, ...]) -> None:
    """Compare two steps through the buffers with the model's own forward pass over all of `embeds`."""
    past = torch.zeros(embeds.shape[0], dtype=torch.int64)
    _, _, _, *new = step(embeds[:, :_SAMPLE_SPLIT], past, *caches)
    filled = [torch.cat([slots, cache[:, :, _SAMPLE_SPLIT:]], dim=2) for slots, cache in zip(new, caches, strict=True)]
    logits, *_ = step(embeds[:, _SAMPLE_SPLIT:], past + _SAMPLE_SPLIT, *filled)
    difference = float((logits - expected).abs().max() / expected.abs().max())
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(
            f"{type(step.llm).__name__}: logits differ by {difference:.1e} of the largest from the model's own, "
            f"expected at most {PARITY_TOLERANCE:.0e}; its attention has a part (sinks, biases and the like) that this "
            "export lacks: choose another LLM"
        )


class TokenEmbedding(nn.Module):
    """The LLM's token embedding, for kinds whose connector gives it no other input."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.embedding: Any = model.llm.get_input_embeddings()  # Any: transformers names no type

    def forward(self, token_ids: Tensor) -> tuple[Tensor]:
        """Return embeddings (batch, tokens, hidden) of (batch, tokens) int64."""
        return (self.embedding(token_ids),)


def embedding_source(config: ModelConfig) -> GraphSource:
    """Return the source of `token_embedding`."""

    def make_lawful(feeds: Feeds, _case: Case, rng: np.random.Generator) -> None:
        feeds[TOKEN_IDS] += rng.integers(0, config.llm["vocab_size"], feeds[TOKEN_IDS].shape)

    return GraphSource(
        spec=embedding_spec(config.llm),
        weights=("llm.",),
        build=traced_from(TokenEmbedding),
        sizes=({BATCH: 1, TOKENS: 1}, {BATCH: 1, TOKENS: 7}, {BATCH: 2, TOKENS: 4}),
        make_lawful=make_lawful,
    )


def llm_source(config: ModelConfig, *, mutual: bool = False, several: bool = False) -> GraphSource:
    """Return the source of `llm_step`: compared at single tokens, prompts and several rows.

    With `mutual`, some new tokens see each other in both directions, see `llm_spec`; with `several`, several are
    scored, see `scoring_several`.
    """
    spec = llm_spec(config.llm, mutual=mutual)
    shapes = [(1, 1, 64, 1), (1, 7, 64, 2), (1, 1, 128, 1), (2, 4, 9, 3)]

    def make_lawful(feeds: Feeds, case: Case, _rng: np.random.Generator) -> None:
        feeds[PAST_TOKENS] += case[CAPACITY] - case[TOKENS] - np.arange(case[BATCH])
        if mutual:
            feeds[MUTUAL_TOKENS] += case[TOKENS] - np.arange(case[BATCH])
        if several:
            feeds[SCORED_TOKENS] += np.arange(case[TOKENS] - case[SCORED], case[TOKENS])

    return GraphSource(
        spec=scoring_several(spec) if several else spec,
        weights=("llm.",),
        build=lambda model: llm_step(model.llm, mutual=mutual, several=several),
        sizes=tuple(dict(zip((BATCH, TOKENS, CAPACITY, SCORED), shape, strict=True)) for shape in shapes),
        make_lawful=make_lawful,
    )
