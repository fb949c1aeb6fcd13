"""Connector kind `interleave` in PyTorch: steps of speech and tokens in one sequence, as the live loop lines them up.

`bestow_edge.training.data.turns` makes the sequences.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.interleave import SPEECH, InterleaveConfig, interleave
from bestow_edge.model.base import Outputs, Speech


class Interleave(nn.Module):
    """The way of speech into the LLM's sequence."""

    def __init__(self, config: InterleaveConfig, width: int, hidden: int) -> None:
        """Make fresh weights.

        Args:
            config: the connector's.
            width: of an encoder step.
            hidden: width of the LLM.
        """
        super().__init__()
        self.additive = config.form == "additive"
        self.hidden = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU()) if config.hidden else nn.Identity()
        self.projection = nn.Linear(config.hidden or width, hidden)
        self.delays = nn.Embedding(len(config.delays), hidden)

    def answer(
        self, llm: PreTrainedModel, token_ids: Tensor, speech: Speech | None, visible_steps: Tensor, *, with_llm: bool
    ) -> Outputs:
        """See `SpeechModel.forward`.

        A position whose token is `SPEECH` holds the last of the steps that it sees. Without speech there is none. In
        the additive form every position that sees some steps holds the last of them beside its token, unless it stands
        behind the end of the speech.
        """
        embeds = embed(llm.get_input_embeddings(), self.delays, token_ids)  # (batch, tokens, hidden)
        if speech is not None and speech.steps.shape[1]:
            steps = self.project(speech.steps).to(embeds.dtype)  # (batch, steps, hidden)
            newest = (visible_steps - 1).clamp(0, steps.shape[1] - 1)[..., None].expand(-1, -1, steps.shape[-1])
            newest_steps = steps.gather(1, newest)
            if self.additive:
                spoken = (visible_steps > 0) & (visible_steps <= speech.lens[:, None])
                embeds = torch.where(spoken[..., None], embeds + newest_steps, embeds)
            else:
                embeds = torch.where((token_ids == SPEECH)[..., None], newest_steps, embeds)
        if not with_llm:
            return Outputs(embeds[:, :0])
        untyped: Any = llm  # Any: transformers' models have no types
        return Outputs(untyped(inputs_embeds=embeds, use_cache=False).logits)

    def project(self, steps: Tensor) -> Tensor:
        """Return embeddings of the LLM, (batch, steps, hidden), of encoder steps (batch, steps, width)."""
        embeds: Tensor = self.projection(self.hidden(steps))
        return embeds

    def start_silent(self) -> None:
        """Let speech and delays begin as the zero embedding."""
        for weight in (self.projection.weight, self.projection.bias, self.delays.weight):
            nn.init.zeros_(weight)


def embed(words: nn.Module, delays: nn.Embedding, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens and delays.

    Args:
        words: the LLM's token embedding.
        delays: embeddings of the ids behind its rows.
        token_ids: (batch, tokens) int64; ids below 0 get any embedding.

    Returns:
        (batch, tokens, hidden)
    """
    table: Any = words  # Any: a Module by its type, an Embedding in every LLM
    rows = table.num_embeddings
    embeds: Tensor = table(token_ids.clamp(0, rows - 1))
    late = delays((token_ids - rows).clamp(0, delays.num_embeddings - 1)).to(embeds.dtype)
    return torch.where((token_ids >= rows)[..., None], late, embeds)


def build(config: ModelConfig) -> Interleave:
    """Build the connector of a model."""
    return Interleave(interleave(config), config.encoder.width, config.llm["hidden_size"])
