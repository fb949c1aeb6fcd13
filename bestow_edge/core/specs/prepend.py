"""Connector kind `prepend`: speech stands in the LLM's sequence, in the place of one token of the prompt.

A linear layer projects each step of the encoder to an embedding of the LLM. Conformer layers and a hidden layer may
stand before it. Source: SALM (Chen et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig, check_code
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.policy import LocalAgreement, Offline
from bestow_edge.core.specs.llm import llm_spec
from bestow_edge.core.tensors import BATCH, INPUTS_EMBEDS, STEPS, TOKEN_IDS, TOKENS, GraphSpec, TensorSpec

GRAPH = "token_embedding"
SPEECH_EMBEDS = "speech_embeds"  # what the encoder hands over


@dataclass(frozen=True, kw_only=True, slots=True)
class PrependConfig(ConnectorConfig):
    """Where speech enters the prompt. The sizes are those of the encoder and of the LLM."""

    kind: Literal["prepend"] = "prepend"
    """Name of the kind; it must be given."""
    speech_token: int
    """Token of the prompt whose place speech takes; each prompt about speech has it once."""
    hidden: int = 0
    """Width of a hidden layer with GELU before the projection; 0 = none."""
    conformer: dict[str, Any] | None = None
    """transformers config of Parakeet's layers before the projection, without its sub-sampling; None = no layers."""

    def __post_init__(self) -> None:
        """Check the token."""
        if self.speech_token < 0:
            raise ConfigError(f"connector: speech_token must be at least 0, got {self.speech_token}")
        if self.conformer is not None and "hidden_size" not in self.conformer:
            raise ConfigError("connector: conformer has no hidden_size; give a transformers config of ParakeetEncoder")
        for name, value in (self.conformer or {}).items():
            check_code(name, value, "connector: conformer")

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        before = ""
        if (network := self.conformer) is not None:
            before = f"{network['num_hidden_layers']} Conformer layers of width {network['hidden_size']}, "
        if self.hidden:
            before += f"a hidden layer of width {self.hidden}, "
        return f"{before}linear projection of each step, in the place of token {self.speech_token}"


def prepend(config: ModelConfig) -> PrependConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(PrependConfig, config.connector)


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: an embedding of the LLM for each step.

    Raises:
        ConfigError: if Conformer layers, which hear both ways, follow an encoder that goes chunk by chunk.
    """
    if prepend(config).conformer is not None and config.encoder.kind != "windowed":
        got = f"conformer layers hear both ways, but the encoder is {config.encoder.kind}"
        raise ConfigError(f"connector: {got}; only a windowed one can go before them")
    return (TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, STEPS, config.llm["hidden_size"])),)


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
    in_sequence=True,
)
