"""Connector kind `cross_layers`: the LLM's own layers attend to speech, as those of Whisper's decoder do.

Speech enters every layer of the LLM, so there is no graph between the encoder and the LLM. All positions of the newest
encoding are seen by every token, those of a prompt too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.policy import WaitK
from bestow_edge.core.ranges import check_ranges, check_tokens
from bestow_edge.core.tensors import (
    ALIGNMENT,
    BATCH,
    CACHE,
    CAPACITY,
    LANGUAGE_LOGITS,
    LOG_PROB,
    LOGITS,
    MEMORY,
    NEW,
    PAST_TOKENS,
    POSITIONS,
    TOKEN_ID,
    TOKEN_IDS,
    TOKENS,
    GraphSpec,
    TensorSpec,
    by_layer,
)

GRAPH = "decoder_step"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossLayersConfig(ConnectorConfig):
    """Heads that follow the speech, and tokens that are no text. The sizes are those of the LLM."""

    kind: Literal["cross_layers"] = "cross_layers"
    """Name of the kind; it must be given."""
    alignment_heads: tuple[tuple[int, int], ...]
    """Layer and head of the cross-attentions whose mean shows where a token is spoken."""
    suppressed: tuple[int, ...] = ()
    """Tokens that are never written, such as marks of sounds."""
    specials_from: int = 0
    """Tokens from this id on are not text and are never written; 0 = none."""
    languages: dict[str, int] = field(default_factory=dict)
    """Token of each language that the model detects: after `ChatTemplate.before` alone, the most probable one."""
    detection_steps: int = 38
    """Steps (3 s) from the begin of the first word on that are heard before a detected language stays."""

    def __post_init__(self) -> None:
        """Check that a head is named."""
        if not self.alignment_heads:
            raise ConfigError("connector: alignment_heads is empty; name the layer and the head of at least one")
        if wrong := [pair for pair in self.alignment_heads if len(pair) != 2]:
            raise ConfigError(f"connector: alignment_heads has {wrong[0]!r:.60}; expected a layer and a head")
        check_ranges("connector", self, detection_steps=(0, 10_000), specials_from=(0, 2**24))

    def check_llm(self, llm: Mapping[str, Any]) -> None:
        """Check that tokens and heads are the LLM's."""
        check_tokens("connector: suppressed", self.suppressed, llm)
        check_tokens("connector: languages", self.languages.values(), llm)
        layers, heads = llm.get("num_hidden_layers", math.inf), llm.get("num_attention_heads", math.inf)
        for layer, head in self.alignment_heads:
            if not (0 <= layer < layers and 0 <= head < heads):
                got = f"alignment_heads has layer {layer}, head {head}"
                raise ConfigError(f"connector: {got}; the LLM has {layers} layers of {heads} heads")

    @property
    def detects(self) -> tuple[str, ...]:
        """Languages of speech that the model detects, in the order of the output `languages`."""
        return tuple(self.languages)

    @property
    def sees_all(self) -> bool:
        """Always."""
        return True

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        counts = f"{len(self.alignment_heads)} alignment heads, {len(self.suppressed)} tokens suppressed"
        detects = f", {len(self.languages)} languages detected" if self.languages else ""
        return f"cross-attention in each layer of the LLM, {counts}{detects}"


def cross_layers(config: ModelConfig) -> CrossLayersConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(CrossLayersConfig, config.connector)


def layer_sizes(llm: dict[str, Any]) -> tuple[int, int, int]:
    """Return the layers, heads and width of a head of the decoder.

    Args:
        llm: its transformers config, of a `WhisperForCausalLM`.
    """
    heads = llm["num_attention_heads"]
    return llm["num_hidden_layers"], heads, llm["hidden_size"] // heads


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: keys and values of each layer's cross-attention, one for each position."""
    layers, heads, head_dim = layer_sizes(config.llm)
    axes = (BATCH, heads, POSITIONS, head_dim)
    return tuple(TensorSpec(name, "float32", axes) for name in by_layer(layers))


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graph behind the encoder.

    `decoder_step`: tokens, speech and KV caches -> the token that follows. The rows of a batch are texts about one
    stream and share its speech. `alignment` is the mean of the alignment heads. `token_id`, `log_prob` and the caches
    are as in `llm_step`; in `logits`, a token that is suppressed has the least value of all. `languages`, of a model
    that detects some, is the logits of their tokens before suppression.
    """
    layers, heads, head_dim = layer_sizes(config.llm)
    names = by_layer(layers)
    detects = len(cross_layers(config).detects)
    languages = (TensorSpec(LANGUAGE_LOGITS, "float32", (BATCH, detects)),) if detects else ()
    cache, new = (BATCH, heads, CAPACITY, head_dim), (BATCH, heads, TOKENS, head_dim)
    decoder = GraphSpec(
        name=GRAPH,
        part="llm",
        inputs=(
            TensorSpec(TOKEN_IDS, "int64", (BATCH, TOKENS)),
            TensorSpec(PAST_TOKENS, "int64", (BATCH,)),
            *(TensorSpec(f"{MEMORY}{name}", "float32", (heads, POSITIONS, head_dim)) for name in names),
            *(TensorSpec(f"{CACHE}{name}", "float32", cache) for name in names),
        ),
        outputs=(
            TensorSpec(LOGITS, "float32", (BATCH, config.llm["vocab_size"])),
            TensorSpec(TOKEN_ID, "int64", (BATCH,)),
            TensorSpec(LOG_PROB, "float32", (BATCH,)),
            TensorSpec(ALIGNMENT, "float32", (1, BATCH, TOKENS, POSITIONS)),
            *languages,
            *(TensorSpec(f"{NEW}{name}", "float32", new) for name in names),
        ),
    )
    return (decoder,)


KIND = ConnectorKind(
    config=CrossLayersConfig, specs=specs, speech=speech, follows=lambda policy: not isinstance(policy, WaitK)
)
