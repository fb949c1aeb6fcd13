"""Connector kind `gated_layers` in PyTorch: cross-attentions to speech before some layers of the LLM, behind gates.

The LLM is the one of transformers, unchanged: hooks before its layers add what was heard. Export hooks the same way,
see `bestow_edge.export.graphs.gated_layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.gated_layers import attentions, gated_layers
from bestow_edge.model.base import Outputs, Speech
from bestow_edge.model.connectors.cross_adapter import AdapterLayer, attend, cross_mask, with_null

GATE_SCALE = 10.0
"""Factor on a gate's weight. Adam moves every weight by about the learning rate a step; a gate has far to go."""
Change = Callable[[int, Tensor], Tensor]
"""Of the number of a gated layer and the hidden states before the LLM's layer, (batch, tokens, hidden)."""


class GatedLayer(nn.Module):
    """Cross-attention to speech and feed-forward, each behind a gate."""

    def __init__(self, config: CrossAdapterConfig) -> None:
        """Make fresh weights with closed gates."""
        super().__init__()
        self.layer = AdapterLayer(config)
        self.attention_gate, self.ffn_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def add(self, x: Tensor, heard: Tensor) -> Tensor:
        """Return the hidden states with what was heard, and with the feed-forward of both.

        Args:
            x: (batch, tokens, hidden), the hidden states.
            heard: (batch, tokens, hidden), the mix of the cross-attention.
        """
        x = x + (GATE_SCALE * self.attention_gate).tanh() * heard
        changed: Tensor = x + (GATE_SCALE * self.ffn_gate).tanh() * self.layer.ffn(self.layer.norm_ffn(x))
        return changed


class GatedLayers(nn.Module):
    """The way of speech into the LLM's layers."""

    def __init__(self, config: CrossAdapterConfig, every: int, speech_width: int) -> None:
        """Make fresh weights.

        Args:
            config: sizes of the cross-attentions.
            every: LLM layers for each cross-attention.
            speech_width: of an encoder step.
        """
        super().__init__()
        self.config, self.every = config, every
        self.speech_in = nn.Linear(speech_width, config.width)
        gated = [GatedLayer(config) for _ in range(config.num_layers)]
        self.layers: Any = nn.ModuleList(gated)  # Any: ModuleList forgets its items' type
        self._hooks: list[RemovableHandle] = []

    def answer(
        self, llm: PreTrainedModel, token_ids: Tensor, speech: Speech | None, visible_steps: Tensor, *, with_llm: bool
    ) -> Outputs:
        """See `SpeechModel.forward`.

        Raises:
            ConfigError: without the LLM, whose layers hear the speech.
        """
        if not with_llm:
            raise ConfigError("connector gated_layers: the LLM's layers hear speech; leave out objective reading")
        untyped: Any = llm  # Any: transformers' models have no types
        embeds = llm.get_input_embeddings()(token_ids)
        unhook(self._hooks)
        if speech is None:
            return Outputs(untyped(inputs_embeds=embeds, use_cache=False).logits)
        source = with_null(self.speech_in(speech.steps))  # (batch, steps + null, width)
        mask = cross_mask(visible_steps, source.shape[1])
        weights = [source] * len(self.layers)

        def hear(number: int, x: Tensor) -> Tensor:
            gated: GatedLayer = self.layers[number]
            heard, attention = attend(gated.layer.cross_attention, gated.layer.norm_cross(x), source, mask)
            weights[number] = attention.mean(1)  # (batch, tokens, steps + null)
            return gated.add(x, heard)

        self._hooks = hook(llm, self.every, hear)
        try:
            logits = untyped(inputs_embeds=embeds, use_cache=False).logits
        finally:
            if not untyped.is_activation_checkpointing:  # which runs the layers again for the gradients
                unhook(self._hooks)
        return Outputs(logits, weights[-1])

    def start_silent(self) -> None:
        """Close the gates."""
        for gated in self.layers:
            nn.init.zeros_(gated.attention_gate)
            nn.init.zeros_(gated.ffn_gate)


def hook(llm: nn.Module, every: int, change: Change) -> list[RemovableHandle]:
    """Change the hidden states before every n-th layer of an LLM, until the handles are removed.

    Raises:
        ConfigError: if the layers are not where transformers' decoder-only LLMs have them.
    """
    untyped: Any = llm  # Any: transformers' models have no types
    layers = getattr(untyped.base_model, "layers", None)
    if layers is None or len(layers) != untyped.config.get_text_config().num_hidden_layers:
        got = f"{type(llm).__name__} has no list `layers`"
        raise ConfigError(f"connector gated_layers: {got}; choose an LLM such as Llama, Qwen or Gemma")

    def before(number: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:  # Any: what a layer takes
        def add(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(number, args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(number, kwargs["hidden_states"])}

        return add

    chosen = layers[every - 1 :: every]
    return [layer.register_forward_pre_hook(before(place), with_kwargs=True) for place, layer in enumerate(chosen)]


def unhook(hooks: Sequence[RemovableHandle]) -> None:
    """Remove hooks; those that are gone stay gone."""
    for handle in hooks:
        handle.remove()


def build(config: ModelConfig) -> GatedLayers:
    """Build the connector of a model."""
    return GatedLayers(attentions(config), gated_layers(config).every, config.encoder.width)
