"""Connector kind `prepend`: speech stands in the LLM's sequence, in the place of one token of the prompt.

A linear layer projects each step of the encoder to an embedding of the LLM. Conformer layers and a hidden layer may
stand before it. A Q-Former makes a fixed number of embeddings of all steps instead, so that each encoding replaces the
speech before. Sources: SALM (Chen et al. 2023); NeMo's `QformerConnector`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.networks import check_network
from bestow_edge.core.policy import LocalAgreement, Offline
from bestow_edge.core.ranges import check_ranges, check_tokens
from bestow_edge.core.specs.llm import llm_spec
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.core.tensors import BATCH, INPUTS_EMBEDS, STEPS, TOKEN_IDS, TOKENS, GraphSpec, TensorSpec

GRAPH = "token_embedding"
SPEECH_EMBEDS = "speech_embeds"  # what the encoder hands over
UNKNOWN = -1  # token, until there is a tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class QformerConfig:
    """Bert layers, as wide as those of the encoder: learned queries attend to all steps of each of its taps."""

    num_queries: int
    """Queries, and embeddings that enter the LLM."""
    num_layers: int
    """Bert layers; all taps share them."""
    num_heads: int
    """Heads of each attention."""
    ffn_width: int = 3072
    """Width of the feed-forward layers."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.num_queries, self.num_layers, self.num_heads, self.ffn_width) < 1:
            raise ConfigError(f"connector.qformer: all sizes must be at least 1, got {self}")
        check_ranges(
            "connector.qformer",
            self,
            num_queries=(1, 100_000),
            num_layers=(1, 1000),
            num_heads=(1, 1000),
            ffn_width=(1, 2**20),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrependConfig(ConnectorConfig):
    """Where speech enters the prompt. The sizes are those of the encoder and of the LLM."""

    kind: Literal["prepend"] = "prepend"
    """Name of the kind; it must be given."""
    speech_token: int = UNKNOWN
    """Token of the prompt whose place speech takes; each prompt about speech has it once. A recipe with `model` leaves
    it out: the tokenizer that is trained has one."""
    hidden: int = 0
    """Width of a hidden layer with GELU before the projection; 0 = none."""
    conformer: dict[str, Any] | None = None
    """transformers config of Parakeet's layers before the projection, without its sub-sampling; None = no layers."""
    qformer: QformerConfig | None = None
    """A Q-Former before the projection, over the encoder's taps; None = an embedding for each step."""

    def __post_init__(self) -> None:
        """Check sizes."""
        check_ranges("connector", self, speech_token=(UNKNOWN, 2**24), hidden=(0, 2**20))
        if self.conformer is not None and "hidden_size" not in self.conformer:
            raise ConfigError("connector: conformer has no hidden_size; give a transformers config of ParakeetEncoder")
        if self.conformer is not None:
            check_network({"model_type": "parakeet_encoder", **self.conformer}, "connector: conformer")
        if self.qformer is not None and (self.hidden or self.conformer is not None):
            raise ConfigError("connector: a qformer stands before the projection alone; leave out hidden and conformer")

    def check_llm(self, llm: Mapping[str, Any]) -> None:
        """Check that there is a token, and that it is the LLM's."""
        if self.mark_id is None:
            raise ConfigError(
                "connector: speech_token is missing; name the token of the prompt whose place speech takes"
            )
        check_tokens("connector: speech_token", [self.speech_token], llm)

    @property
    def mark(self) -> str:
        """Text of the token in new models; those made elsewhere have their own."""
        return "<|speech|>"

    @property
    def mark_id(self) -> int | None:
        """Id of the token; None if it is not yet known."""
        return None if self.speech_token == UNKNOWN else self.speech_token

    def with_mark(self, token_id: int) -> PrependConfig:
        """Return the config with the id of the token."""
        return replace(self, speech_token=token_id)

    @property
    def sees_all(self) -> bool:
        """Whether a Q-Former makes one prefix of the whole encoding."""
        return self.qformer is not None

    def llm_positions(self, steps: int) -> int:
        """Return the positions of the LLM's sequence that speech of some steps takes."""
        return steps if self.qformer is None else self.qformer.num_queries

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        place = f"in the place of token {self.speech_token}"
        if (qformer := self.qformer) is not None:
            layers = f"Q-Former of {qformer.num_layers} layers, {qformer.num_heads} heads"
            return f"{layers}: {qformer.num_queries} embeddings of all steps, {place}"
        before = ""
        if (network := self.conformer) is not None:
            before = f"{network['num_hidden_layers']} Conformer layers of width {network['hidden_size']}, "
        if self.hidden:
            before += f"a hidden layer of width {self.hidden}, "
        return f"{before}linear projection of each step, {place}"


def prepend(config: ModelConfig) -> PrependConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(PrependConfig, config.connector)


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: an embedding of the LLM for each step, or for each query of a Q-Former.

    Raises:
        ConfigError: if the encoder does not fit the layers before the projection.
    """
    connector, encoder = prepend(config), config.encoder
    if connector.conformer is not None and encoder.kind != "windowed":
        got = f"conformer layers hear both ways, but the encoder is {encoder.kind}"
        raise ConfigError(f"connector: {got}; only a windowed one can go before them")
    if connector.qformer is None:
        return (TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, STEPS, config.llm["hidden_size"])),)
    if not isinstance(encoder, WindowedConfig) or not encoder.taps or encoder.right_context:
        expected = "a windowed one with taps and right_context 0, because it reads all steps that were encoded"
        raise ConfigError(f"connector: a qformer does not fit this encoder ({encoder.describe()}); expected {expected}")
    queries = connector.qformer.num_queries
    return (TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, queries, config.llm["hidden_size"])),)


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graphs behind the encoder: `token_embedding`, from tokens to embeddings of the LLM, and `llm_step`."""
    embedding = GraphSpec(
        name=GRAPH,
        part="connector",
        inputs=(TensorSpec(TOKEN_IDS, "int64", (BATCH, TOKENS)),),
        outputs=(TensorSpec(INPUTS_EMBEDS, "float32", (BATCH, TOKENS, config.llm["hidden_size"])),),
    )
    return embedding, llm_spec(config.llm)


KIND = ConnectorKind(
    config=PrependConfig,
    specs=specs,
    speech=speech,
    follows=lambda policy: isinstance(policy, Offline | LocalAgreement),
    aligned=False,
)
