"""Connector kind `gated_layers` as graphs: `token_embedding`, and `llm_step` with the speech memory among its inputs.

The LLM runs as in `bestow_edge.export.graphs.llm`; hooks before its layers attend to the memory, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.gated_layers import specs
from bestow_edge.core.tensors import (
    BATCH,
    CAPACITY,
    PAST_TOKENS,
    SLOTS,
    TOKENS,
    VISIBLE_STEPS,
    WRITTEN_STEPS,
)
from bestow_edge.export.graphs.base import Case, Feeds, GraphSource
from bestow_edge.export.graphs.cross_adapter import cross_attend, visible_slots
from bestow_edge.export.graphs.llm import LlmStep, embedding_source, llm_step
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.connectors.gated_layers import GatedLayer, GatedLayers, hook, unhook

SPEECH_WEIGHTS = ("connector.",)


class GatedStep(nn.Module):
    """The LLM and the cross-attentions before its layers as one function of new tokens, memory and caches."""

    def __init__(self, step: LlmStep, connector: GatedLayers) -> None:
        """Use the modules as they are."""
        super().__init__()
        self.step, self.layers = step, connector.layers
        for index, gated in enumerate(connector.layers):
            for name, tensor in zip(("null_key", "null_value"), gated.layer.null(), strict=True):
                self.register_buffer(f"{name}_{index}", tensor.detach())
        self._memory: tuple[Tensor, ...] = ()
        self._visible: tuple[Tensor, Tensor] | None = None
        self._weights: list[Tensor] = []

    def forward(
        self, inputs_embeds: Tensor, past_tokens: Tensor, visible_steps: Tensor, written_steps: Tensor, *buffers: Tensor
    ) -> tuple[Tensor, ...]:
        """Run new tokens; arguments and results are those of `bestow_edge.core.specs.gated_layers.specs`."""
        split = 2 * len(self.layers)
        self._memory, self._weights = buffers[:split], []
        slots = visible_slots(visible_steps, written_steps, buffers[0].shape[1])  # (batch, tokens, memory)
        self._visible = slots, torch.ones_like(visible_steps[..., None], dtype=torch.bool)
        logits, token_id, log_prob, *new = self.step(inputs_embeds, past_tokens, *buffers[split:])
        return (logits, token_id, log_prob, torch.stack(self._weights), *new)

    def hear(self, number: int, x: Tensor) -> Tensor:
        """Return hidden states (batch, tokens, hidden) with what a gated layer hears."""
        if self._visible is None:
            raise RuntimeError("a layer of the LLM ran outside of a step")
        gated: GatedLayer = self.layers[number]
        null = getattr(self, f"null_key_{number}"), getattr(self, f"null_value_{number}")
        keys, values = self._memory[2 * number : 2 * number + 2]
        heard, weights = cross_attend(gated.layer, x, self._visible, keys, values, null)
        self._weights.append(weights.mean(1))  # over heads: (batch, tokens, memory + 1)
        return gated.add(x, heard)


@contextmanager
def gated_step(model: SpeechModel) -> Iterator[GatedStep]:
    """Yield the module of `llm_step`; it works inside the block only. See `bestow_edge.export.graphs.llm.llm_step`."""
    with llm_step(model.llm) as plain:
        step = GatedStep(plain, model.connector).train(False)
        hooks = hook(model.llm, model.connector.every, step.hear)
        try:
            yield step
        finally:
            unhook(hooks)


class SpeechSide(nn.Module):
    """The projections of speech, which run once for each step."""

    def __init__(self, connector: GatedLayers) -> None:
        """Use the modules as they are."""
        super().__init__()
        attentions = [gated.layer.cross_attention for gated in connector.layers]
        self.speech_in, self._split = connector.speech_in, attentions[0].split
        self.keys = nn.ModuleList(attention.key for attention in attentions)
        self.values = nn.ModuleList(attention.value for attention in attentions)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Project (batch, steps, width) to keys and values, each (layers, batch, heads, steps, head_dim)."""
        speech = self.speech_in(steps)
        keys, values = ([self._split(project(speech)) for project in part] for part in (self.keys, self.values))
        return torch.stack(keys), torch.stack(values)


def speech_side(model: SpeechModel) -> SpeechSide:
    """Return the module that ends the encoder's graph, see `bestow_edge.export.graphs.base.speech_side`."""
    return SpeechSide(model.connector)


def sources(config: ModelConfig) -> tuple[GraphSource, ...]:
    """Return the sources of `token_embedding` and `llm_step`."""

    def make_lawful(feeds: Feeds, case: Case, _rng: np.random.Generator) -> None:
        past = min(case[CAPACITY], config.max_text_tokens) - case[TOKENS]
        feeds[PAST_TOKENS] += past - np.arange(case[BATCH])
        feeds[WRITTEN_STEPS] += case[SLOTS] + 11  # the ring has wrapped
        feeds[VISIBLE_STEPS] += case[SLOTS] // 2 + np.arange(case[TOKENS])

    shapes = [(1, 1, 128, 64), (1, 7, 128, 64), (1, 1, 256, 128), (2, 4, 8, 9)]
    step = GraphSource(
        spec=specs(config)[1],
        weights=("llm.", "connector."),
        build=gated_step,
        sizes=tuple(dict(zip((BATCH, TOKENS, SLOTS, CAPACITY), shape, strict=True)) for shape in shapes),
        make_lawful=make_lawful,
        largest_int4_block=16,
    )
    return embedding_source(config), step
