"""Connector kind `gated_layers`: layers of a decoder-only LLM attend to speech, each behind gates that start closed.

Before every n-th layer of the LLM stand a cross-attention to speech and a feed-forward, each times tanh of a gate. With
gates of 0 the LLM is the one that was given. Keys and values of speech are computed once for each encoder step and lie
in a ring, as those of BESTOW's adapter do; a token sees those that its policy allows, and a null frame.
Source: Flamingo (Alayrac et al. 2022, arXiv 2204.14198, section 2.2) for the gates; the T5 style of the BESTOW paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.specs.cross_adapter import KEYS, VALUES, CrossAdapterConfig
from bestow_edge.core.specs.llm import embedding_spec, llm_spec
from bestow_edge.core.tensors import (
    ALIGNMENT,
    BATCH,
    MEMORY,
    NEW,
    SLOTS,
    STEPS,
    TOKENS,
    VISIBLE_STEPS,
    WRITTEN_STEPS,
    DerivedAxis,
    GraphSpec,
    TensorSpec,
    by_layer,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedLayersConfig(ConnectorConfig):
    """Where cross-attentions stand, and their sizes. Their width is that of the LLM."""

    kind: Literal["gated_layers"] = "gated_layers"
    """Name of the kind; it must be given."""
    every: int = 2
    """A cross-attention stands before each LLM layer whose number, from 1, is a multiple of this."""
    num_heads: int = 8
    """Heads of each cross-attention."""
    ffn_factor: int = 4
    """Width of the feed-forward behind each cross-attention over that of the LLM."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges("connector", self, every=(1, 1000), num_heads=(1, 1000), ffn_factor=(1, 100))

    def check_llm(self, llm: Mapping[str, Any]) -> None:
        """Check that the LLM has such a layer and that the heads divide its width."""
        if self.every > (layers := llm.get("num_hidden_layers", math.inf)):
            got = f"every {self.every}, but the LLM has {layers} layers"
            raise ConfigError(f"connector: {got}, so none would attend to speech; set at most {layers}")
        if llm.get("hidden_size", self.num_heads) % self.num_heads:
            got = f"the LLM's width {llm['hidden_size']} is not a multiple of num_heads {self.num_heads}"
            raise ConfigError(f"connector: {got}; choose other heads")

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        return f"gated cross-attention before every LLM layer {self.every}.: {self.num_heads} heads"


def gated_layers(config: ModelConfig) -> GatedLayersConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(GatedLayersConfig, config.connector)


def attentions(config: ModelConfig) -> CrossAdapterConfig:
    """Return the sizes of the cross-attentions, as those of adapter layers without self-attention."""
    chosen = gated_layers(config)
    return CrossAdapterConfig(
        num_layers=config.llm["num_hidden_layers"] // chosen.every,
        width=config.llm["hidden_size"],
        num_heads=chosen.num_heads,
        ffn_factor=chosen.ffn_factor,
        text_mixer="none",
    )


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: keys and values of the cross-attentions, all layers in one tensor."""
    sizes = attentions(config)
    axes = (sizes.num_layers, BATCH, sizes.num_heads, STEPS, sizes.head_dim)
    return TensorSpec(KEYS, "float32", axes), TensorSpec(VALUES, "float32", axes)


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graphs behind the encoder.

    `token_embedding`, and `llm_step` with the speech memory among its inputs: a ring of `memory` slots as in
    `adapter_step` of kind `cross_adapter`. `alignment` is the cross-attention of each layer that has one, mean over
    heads, the null frame last.
    """
    sizes, plain = attentions(config), llm_spec(config.llm)
    memory = (sizes.num_heads, SLOTS, sizes.head_dim)
    fed = (
        *plain.inputs[:2],
        TensorSpec(VISIBLE_STEPS, "int64", (BATCH, TOKENS)),
        TensorSpec(WRITTEN_STEPS, "int64", (1,)),
        *(TensorSpec(f"{MEMORY}{name}", "float32", memory) for name in by_layer(sizes.num_layers)),
        *plain.inputs[2:],
    )
    first = next(place for place, tensor in enumerate(plain.outputs) if tensor.name.startswith(NEW))
    alignment = TensorSpec(ALIGNMENT, "float32", (sizes.num_layers, BATCH, TOKENS, "memory_and_null"))
    returned = (*plain.outputs[:first], alignment, *plain.outputs[first:])
    step = replace(plain, inputs=fed, outputs=returned, derived=(DerivedAxis("memory_and_null", SLOTS, extra=1),))
    return embedding_spec(config.llm), step


KIND = ConnectorKind(
    config=GatedLayersConfig,
    specs=specs,
    speech=speech,
    follows=lambda _policy: True,
    own_losses=("attention_weight",),
)
