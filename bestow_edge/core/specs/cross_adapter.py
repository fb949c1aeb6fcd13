"""Connector kind `cross_adapter`: BESTOW's adapter between the token embeddings and the LLM.

Its layers attend to speech, so that speech never enters the LLM's sequence (paper, section 3.1 and Table 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.specs.llm import llm_spec
from bestow_edge.core.tensors import (
    ALIGNMENT,
    BATCH,
    CACHE,
    CAPACITY,
    INPUTS_EMBEDS,
    MEMORY,
    NEW,
    PAST_TOKENS,
    SLOTS,
    STEPS,
    TOKEN_IDS,
    TOKENS,
    VISIBLE_STEPS,
    WRITTEN_STEPS,
    DerivedAxis,
    GraphSpec,
    TensorSpec,
    by_layer,
)

GRAPH = "adapter_step"
KEYS, VALUES = "cross_keys", "cross_values"  # what the encoder hands over
LSTM_LAYERS = 2  # paper, Table 4: "two RNN layers + one cross-attention"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossAdapterConfig(ConnectorConfig):
    """Sizes and variants of the adapter."""

    kind: Literal["cross_adapter"] = "cross_adapter"
    """Name of the kind; it must be given."""
    num_layers: int = 2
    """Adapter layers X; the paper found nothing gained above 2."""
    width: int = 1024
    """Model width of the adapter; projections are added where it differs from the encoder's or the LLM's."""
    num_heads: int = 8
    """Heads of self- and cross-attention."""
    ffn_factor: int = 4
    """Feed-forward width over `width`: 4 by the paper's parameter counts, 1 in the authors' public code."""
    text_mixer: Literal["attention", "lstm", "none"] = "attention"
    """How text positions are mixed: by causal self-attention in each layer, or (Table 4) two LSTM layers below one
    cross-attention layer, or nothing, which the paper tried and gave up."""
    prompt_mode: Literal["null_frame", "bypass"] = "null_frame"
    """Prompt tokens before the last one: attend to the null frame only, or skip the adapter (older variant)."""
    dropout: float = 0.0
    """Dropout in the adapter, training only."""
    activation: Literal["relu", "gelu"] = "relu"
    """Between the two layers of a feed-forward: ReLU as in the paper, GELU as in a Whisper decoder."""
    positions: int = 0
    """Learned positions of text tokens, prompt included, as a Whisper decoder has; 0 = none."""
    own_embedding: bool = False
    """Give the adapter token embeddings of its own, in its width, instead of the LLM's."""
    residual: bool = True
    """Add the LLM's token embeddings to the adapter's output."""
    null_frame: Literal["always", "alone"] = "always"
    """Which tokens see the null frame: all, or those without visible speech, as a Whisper decoder has no such frame."""
    speech_parts: int = 1
    """Positions that the encoder stacked to one step, each with a key and a value of its own; a Whisper has 4."""

    def __post_init__(self) -> None:
        """Check sizes."""
        if min(self.num_layers, self.width, self.num_heads, self.ffn_factor) < 1:
            raise ConfigError("connector: num_layers, width, num_heads and ffn_factor must be at least 1")
        parts = {"num_layers": (1, 1000), "num_heads": (1, 1000), "ffn_factor": (1, 100), "speech_parts": (0, 64)}
        check_ranges("connector", self, width=(1, 2**20), dropout=(0, 1), positions=(-1, 2**31 - 1), **parts)
        if self.width % self.num_heads:
            raise ConfigError(f"connector: width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.positions < 0 or self.speech_parts < 1:
            got = f"positions {self.positions}, speech_parts {self.speech_parts}"
            raise ConfigError(f"connector: positions must be at least 0 and speech_parts at least 1, got {got}")
        if self.positions and (self.text_mixer != "attention" or self.prompt_mode == "bypass"):
            raise ConfigError("connector: positions need text_mixer 'attention' and prompt_mode 'null_frame'")
        if not self.residual and self.prompt_mode == "bypass":
            raise ConfigError("connector: prompt_mode 'bypass' needs the residual: nothing else reaches the LLM")
        if self.text_mixer == "lstm" and self.num_layers != 1:
            raise ConfigError("connector: text_mixer 'lstm' has one cross-attention layer (Table 4); set num_layers: 1")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.num_heads

    @property
    def max_text_tokens(self) -> int | None:
        """Most tokens of a text, prompt included: its positions."""
        return self.positions or None

    @property
    def slot_width(self) -> int:
        """Width of the keys of one head for one step of speech, all parts side by side."""
        return self.speech_parts * self.head_dim

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        sizes = f"{self.num_layers} layers of width {self.width}, {self.num_heads} heads"
        variants = {
            f"{self.positions} positions": self.positions,
            "embeddings of its own": self.own_embedding,
            "no residual": not self.residual,
            f"{self.speech_parts} parts a step": self.speech_parts > 1,
        }
        chosen = [f"text mixer {self.text_mixer}", f"prompt mode {self.prompt_mode}"]
        return ", ".join([sizes, *chosen, *(name for name, used in variants.items() if used)])


def cross_adapter(config: ModelConfig) -> CrossAdapterConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(CrossAdapterConfig, config.connector)


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: keys and values of the cross-attentions, all layers in one tensor."""
    adapter = cross_adapter(config)
    axes = (adapter.num_layers, BATCH, adapter.num_heads, STEPS, adapter.slot_width)
    return TensorSpec(KEYS, "float32", axes), TensorSpec(VALUES, "float32", axes)


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graphs behind the encoder."""
    return adapter_spec(config), llm_spec(config.llm)


def adapter_spec(config: ModelConfig) -> GraphSpec:
    """`adapter_step`: tokens and the speech memory -> LLM input embeddings. Serves prompt prefill and single steps.

    The rows of a batch are texts about one stream: they share its memory, a ring of `memory` slots in which
    `written_steps` steps were ever written; `visible_steps` counts from the first of them. `alignment` is the
    cross-attention of each layer, mean over heads, the null frame last. Self-attention keys and values of the new
    tokens come out; the runtime stores them in its buffer behind `past_tokens`, so no cache is ever copied. With LSTM
    text layers the state is fixed in size; without a text mixer there is no state.
    """
    adapter, hidden = cross_adapter(config), config.llm["hidden_size"]
    memory = (adapter.num_heads, SLOTS, adapter.slot_width)
    names = by_layer(adapter.num_layers)
    inputs = [
        TensorSpec(TOKEN_IDS, "int64", (BATCH, TOKENS)),
        TensorSpec(VISIBLE_STEPS, "int64", (BATCH, TOKENS)),
        TensorSpec(WRITTEN_STEPS, "int64", (1,)),
        *(TensorSpec(f"{MEMORY}{name}", "float32", memory) for name in names),
    ]
    outputs = [
        TensorSpec(INPUTS_EMBEDS, "float32", (BATCH, TOKENS, hidden)),
        TensorSpec(ALIGNMENT, "float32", (adapter.num_layers, BATCH, TOKENS, "memory_and_null")),
    ]
    states: tuple[TensorSpec, ...] = ()
    if adapter.text_mixer == "lstm":
        state = (LSTM_LAYERS, BATCH, adapter.width)
        states = (TensorSpec("lstm_hidden", "float32", state), TensorSpec("lstm_cell", "float32", state))
    elif adapter.text_mixer == "attention":
        cache = (BATCH, adapter.num_heads, CAPACITY, adapter.head_dim)
        new = (BATCH, adapter.num_heads, TOKENS, adapter.head_dim)
        inputs.append(TensorSpec(PAST_TOKENS, "int64", (BATCH,)))
        inputs += [TensorSpec(f"{CACHE}{name}", "float32", cache) for name in names]
        outputs += [TensorSpec(f"{NEW}{name}", "float32", new) for name in names]
    return GraphSpec(
        name=GRAPH,
        part="connector",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=states,
        derived=(DerivedAxis("memory_and_null", SLOTS, extra=1),),
    )


def _scores_several(config: ModelConfig) -> bool:
    """Drafts of local agreement are good guesses; an LSTM could not take a wrong one back."""
    adapter = cross_adapter(config)
    return (
        adapter.text_mixer != "lstm" and adapter.prompt_mode == "null_frame" and config.policy.name == "local-agreement"
    )


KIND = ConnectorKind(
    config=CrossAdapterConfig,
    specs=specs,
    speech=speech,
    follows=lambda _policy: True,
    own_losses=("attention_weight", "reading_weight"),
    scores_several=_scores_several,
)
