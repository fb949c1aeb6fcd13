"""Graphs of connector kind `interleave`: `token_embedding`, `llm_step`, and the end of the encoder's graph."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.interleave import interleave, specs
from bestow_edge.core.tensors import BATCH, TOKEN_IDS, TOKENS
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource, traced_from
from bestow_edge.export.graphs.llm import llm_source
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.interleave import Interleave, embed

SPEECH_WEIGHTS = ("connector.hidden.", "connector.projection.")


class TokenEmbedding(nn.Module):
    """The LLM's token embedding, and behind its rows the delays."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.words: nn.Module = model.llm.get_input_embeddings()
        self.delays: nn.Embedding = model.connector.delays

    def forward(self, token_ids: Tensor) -> tuple[Tensor]:
        """Return embeddings (batch, tokens, hidden) of (batch, tokens) int64."""
        return (embed(self.words, self.delays, token_ids),)


class SpeechSide(nn.Module):
    """The projection, which runs once for each encoder step."""

    def __init__(self, connector: Interleave) -> None:
        super().__init__()
        self.projection = nn.Sequential(connector.hidden, connector.projection)

    def forward(self, steps: Tensor) -> tuple[Tensor]:
        """Project (batch, steps, width) to embeddings of the LLM, (batch, steps, hidden)."""
        return (self.projection(steps),)


def speech_side(model: SpeechModel) -> SpeechSide:
    """Return the module that ends the encoder's graph, see `bestow_edge.export.graphs.base.speech_side`."""
    return SpeechSide(model.connector)


def sources(config: ModelConfig) -> tuple[GraphSource, ...]:
    """Return the sources of `token_embedding` and `llm_step`."""
    rows = config.llm["vocab_size"] + len(interleave(config).delays)

    def make_lawful(feeds: Feeds, _case: Case, rng: np.random.Generator) -> None:
        feeds[TOKEN_IDS] += rng.integers(0, rows, feeds[TOKEN_IDS].shape)
        feeds[TOKEN_IDS][0, 0] = rows - 1  # a delay

    embedding = GraphSource(
        spec=specs(config)[0],
        weights=("llm.", "connector.delays."),
        build=traced_from(TokenEmbedding),
        sizes=({BATCH: 1, TOKENS: 1}, {BATCH: 1, TOKENS: 7}, {BATCH: 2, TOKENS: 4}),
        make_lawful=make_lawful,
    )
    return embedding, llm_source(config)
