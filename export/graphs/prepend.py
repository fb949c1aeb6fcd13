"""Connector kind `prepend` as graphs: `token_embedding`, which serves prompts and answers, and `llm_step`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.prepend import prepend
from bestow_edge.export.graphs.base import GraphSource
from bestow_edge.export.graphs.llm import embedding_source, llm_source
from bestow_edge.export.graphs.parakeet_encoder import BidirectionalLayers
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.ctc_compressor import compress
from bestow_edge.model.connectors.prepend import Prepend
from bestow_edge.model.connectors.speech_layers import stacked

SPEECH_WEIGHTS = ("connector.",)


class SpeechSide(nn.Module):
    """Conformer layers or a Q-Former, if there are any, and the projection: they run once for each encoding."""

    def __init__(self, connector: Prepend) -> None:
        super().__init__()
        self.stack, self.unit = connector.config.stack, connector.config.unit
        self.compressor, self.ctc_head = connector.config.compressor, connector.ctc_head
        conformer: Any = connector.conformer  # Any: modules of transformers have no types
        self.projection = nn.Sequential(connector.hidden, connector.projection)
        self.qformer, self.input, self.layers = connector.qformer, None, None
        if conformer is not None:
            self.input, self.scale = conformer.input, conformer.scale
            self.layers = BidirectionalLayers(conformer.layers, conformer.positions.inv_freq)

    def forward(self, steps: Tensor) -> tuple[Tensor, ...]:
        """Project (batch, steps, width) to embeddings of the LLM, (batch, steps or queries, hidden).

        Stacks and windows give fewer than steps; zeros follow them.
        """
        whole = torch.full_like(steps[:, 0, 0], steps.shape[1], dtype=torch.int64)  # (batch,)
        length, (steps, _) = steps.shape[1], stacked(steps, whole, self.stack)
        if self.compressor is not None and self.ctc_head is not None:
            steps, ends = compress(steps, self.ctc_head(steps).argmax(-1), whole, self.compressor, 0)
        if self.layers is not None and self.input is not None:
            valid = torch.ones(steps.shape[:2], dtype=torch.bool, device=steps.device)
            if self.compressor is not None:
                valid = torch.arange(length, device=steps.device) < (ends > 0).long().sum(-1, keepdim=True)
            steps = self.layers(self.input(steps) * self.scale, valid)
        if self.qformer is not None:
            steps = self.qformer(steps, whole)
        embeds = self.projection(steps)
        if self.compressor is not None:
            return embeds, ends
        if self.unit > 1:
            embeds = F.pad(embeds, (0, 0, 0, length))[:, :length]
        return (embeds,)


def speech_side(model: SpeechModel) -> SpeechSide:
    """Return the module that ends the encoder's graph, see `bestow_edge.export.graphs.base.speech_side`."""
    return SpeechSide(model.connector)


def sources(config: ModelConfig) -> tuple[GraphSource, ...]:
    """Return the sources of `token_embedding` and `llm_step`."""
    return embedding_source(config), llm_source(config, mutual=prepend(config).mask == "non_causal")
