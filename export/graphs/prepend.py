"""Connector kind `prepend` as graphs: `token_embedding`, which serves prompts and answers, and `llm_step`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.prepend import specs
from bestow_edge.core.tensors import BATCH, TOKEN_IDS, TOKENS
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource, traced_from
from bestow_edge.export.graphs.llm import llm_source
from bestow_edge.model.base import SpeechModel

SPEECH_WEIGHTS = ("connector.",)


class TokenEmbedding(nn.Module):
    """The LLM's token embedding."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.embedding: Any = model.llm.get_input_embeddings()  # Any: transformers names no type

    def forward(self, token_ids: Tensor) -> tuple[Tensor]:
        """Return embeddings (batch, tokens, hidden) of (batch, tokens) int64."""
        return (self.embedding(token_ids),)


def sources(config: ModelConfig) -> tuple[GraphSource, ...]:
    """Return the sources of `token_embedding` and `llm_step`."""

    def make_lawful(feeds: Feeds, _case: Case, rng: np.random.Generator) -> None:
        feeds[TOKEN_IDS] += rng.integers(0, config.llm["vocab_size"], feeds[TOKEN_IDS].shape)

    embedding = GraphSource(
        spec=specs(config)[0],
        weights=("llm.",),
        build=traced_from(TokenEmbedding),
        sizes=({BATCH: 1, TOKENS: 1}, {BATCH: 1, TOKENS: 7}, {BATCH: 2, TOKENS: 4}),
        make_lawful=make_lawful,
    )
    return embedding, llm_source(config)
