"""Connector kind `prepend`: speech stands in the LLM's sequence, in the place of one token of the prompt.

A linear layer projects each step of the encoder, or a stack of steps, to an embedding of the LLM. Conformer layers and
a hidden layer may stand before it. A Q-Former makes a fixed number of embeddings of each window of steps instead, or of
all steps, so that each encoding replaces the speech before. Sources: SALM (Chen et al. 2023); NeMo's
`QformerConnector`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, EncoderConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.networks import check_network
from bestow_edge.core.policy import LocalAgreement, Offline
from bestow_edge.core.ranges import check_ranges, check_tokens
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.llm import embedding_spec, llm_spec
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.core.tensors import (
    BATCH,
    POSITION_ENDS,
    SPEECH_EMBEDS,
    STEPS,
    GraphSpec,
    TensorSpec,
)

UNKNOWN = -1  # token, until there is a tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class QformerConfig:
    """Bert layers, as wide as those of the encoder: learned queries attend to steps of each of its taps."""

    num_queries: int
    """Queries, and embeddings that enter the LLM."""
    num_layers: int
    """Bert layers; all taps share them."""
    num_heads: int
    """Heads of each attention."""
    ffn_width: int = 3072
    """Width of the feed-forward layers."""
    window: int = 0
    """Steps that the queries attend to at once; each window gives `num_queries` embeddings, a shorter last one at most
    as many as it has steps. 0 = all steps that were encoded, for an encoder that encodes everything again."""

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
            window=(0, 10_000),
        )
        if self.window and self.num_queries > self.window:
            got = f"num_queries {self.num_queries} of a window of {self.window} steps"
            raise ConfigError(f"connector.qformer: {got}; expected at most as many queries as steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressorConfig:
    """A CTC compressor over the encoder's steps, whose head is part of the checkpoint. Source: Speech-LLaMA.

    With a chunked encoder, a run of equal labels ends with its chunk. A windowed one encodes all speech again, and each
    encoding replaces the speech before.
    """

    strategy: Literal["frame_averaging", "blank_removal"] = "frame_averaging"
    """`frame_averaging`: the mean of each run of steps with the same label, blanks too. `blank_removal`: the steps
    whose label is no blank; silence has none."""
    labels: int
    """Labels of the head, at least those of the recipe's vocabulary of labels. The blank comes on top."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges("connector.compressor", self, labels=(1, 2**20))


@dataclass(frozen=True, kw_only=True, slots=True)
class PrependConfig(ConnectorConfig):
    """Where speech enters the prompt. The sizes are those of the encoder and of the LLM."""

    kind: Literal["prepend"] = "prepend"
    """Name of the kind; it must be given."""
    speech_token: int = UNKNOWN
    """Token of the prompt whose place speech takes; each prompt about speech has it once. A recipe with `model` leaves
    it out: the tokenizer that is trained has one."""
    stack: int = 1
    """Encoder steps that stand side by side before the first layer; each such stack becomes one position of the LLM."""
    hidden: int = 0
    """Width of a hidden layer with GELU before the projection; 0 = none."""
    conformer: dict[str, Any] | None = None
    """transformers config of Parakeet's layers before the projection, without its sub-sampling; None = no layers."""
    qformer: QformerConfig | None = None
    """A Q-Former before the projection, over the encoder's taps; None = an embedding for each step."""
    compressor: CompressorConfig | None = None
    """A CTC compressor before all other layers; None = none."""
    mask: Literal["causal", "non_causal"] = "causal"
    """Which speech a position of speech sees in the LLM: that before it, or all of it. With `non_causal`, more speech
    changes the keys and values of all speech, so all of it runs through the LLM again."""

    def __post_init__(self) -> None:
        """Check sizes."""
        check_ranges("connector", self, speech_token=(UNKNOWN, 2**24), stack=(1, 1000), hidden=(0, 2**20))
        if self.conformer is not None and "hidden_size" not in self.conformer:
            raise ConfigError("connector: conformer has no hidden_size; give a transformers config of ParakeetEncoder")
        if self.conformer is not None:
            check_network({"model_type": "parakeet_encoder", **self.conformer}, "connector: conformer")
        if self.qformer is not None and (self.hidden or self.conformer is not None or self.stack > 1):
            others = "hidden, conformer and stack"
            raise ConfigError(f"connector: a qformer stands before the projection alone; leave out {others}")
        if self.compressor is not None and (self.qformer is not None or self.stack > 1):
            raise ConfigError("connector: a compressor shortens speech itself; leave out qformer and stack")

    def check_llm(self, llm: Mapping[str, Any]) -> None:
        """Check that there is a token, and that it is the LLM's."""
        if self.mark_id is None:
            raise ConfigError(
                "connector: speech_token is missing; name the token of the prompt whose place speech takes"
            )
        check_tokens("connector: speech_token", [self.speech_token], llm)
        sliding = llm.get("sliding_window") and llm.get("use_sliding_window", True)
        if self.mask == "non_causal" and (sliding or "sliding_attention" in (llm.get("layer_types") or ())):
            got = "mask non_causal lets speech see all speech, but the LLM has a sliding window"
            raise ConfigError(f"connector: {got}; take mask causal or another LLM")

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
        """Whether a compressor or a Q-Former makes one prefix of each encoding, if that is of all speech."""
        return self.compressor is not None or (self.qformer is not None and not self.qformer.window)

    @property
    def unit(self) -> int:
        """Steps of a stack, or of a Q-Former's window."""
        return self.stack if self.qformer is None else self.qformer.window or 1

    def llm_positions(self, steps: int) -> int:
        """Return the positions of the LLM's sequence that speech of some steps takes, with a compressor at most."""
        if self.qformer is None:
            return -(-steps // self.stack)
        whole, rest = divmod(steps, self.qformer.window) if self.qformer.window else (1, 0)
        return whole * self.qformer.num_queries + min(rest, self.qformer.num_queries)

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        place = f"in the place of token {self.speech_token}"
        if (qformer := self.qformer) is not None:
            layers = f"Q-Former of {qformer.num_layers} layers, {qformer.num_heads} heads"
            steps = f"each {qformer.window}" if qformer.window else "all"
            return f"{layers}: {qformer.num_queries} embeddings of {steps} steps, {place}"
        before = f"{self.stack} steps stacked, " if self.stack > 1 else ""
        if (compressor := self.compressor) is not None:
            before = f"CTC compressor ({compressor.strategy}, {compressor.labels} labels), "
        if (network := self.conformer) is not None:
            before += f"{network['num_hidden_layers']} Conformer layers of width {network['hidden_size']}, "
        if self.hidden:
            before += f"a hidden layer of width {self.hidden}, "
        mask = ", speech sees all speech" if self.mask == "non_causal" else ""
        return f"{before}linear projection of each {'stack' if self.stack > 1 else 'step'}, {place}{mask}"


def prepend(config: ModelConfig) -> PrependConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(PrependConfig, config.connector)


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: embeddings of the LLM.

    There is one for each step, or for each query of a Q-Former over all steps. Stacks and windows have fewer:
    `PrependConfig.llm_positions` says how many of them count.

    Raises:
        ConfigError: if the encoder does not fit the layers before the projection.
    """
    connector, encoder = prepend(config), config.encoder
    if connector.conformer is not None and encoder.kind != "windowed":
        got = f"conformer layers hear both ways, but the encoder is {encoder.kind}"
        raise ConfigError(f"connector: {got}; only a windowed one can go before them")
    if connector.unit > 1:
        _check_unit(connector.unit, encoder)
    embeds = TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, STEPS, config.llm["hidden_size"]))
    if connector.compressor is not None:
        _check_compressed(encoder)
        return embeds, TensorSpec(POSITION_ENDS, "int64", (BATCH, STEPS))
    if connector.qformer is None or connector.qformer.window:
        return (embeds,)
    if not isinstance(encoder, WindowedConfig) or not encoder.taps or encoder.right_context:
        expected = "a windowed one with taps and right_context 0, because it reads all steps that were encoded"
        raise ConfigError(f"connector: a qformer does not fit this encoder ({encoder.describe()}); expected {expected}")
    queries = connector.qformer.num_queries
    return (TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, queries, config.llm["hidden_size"])),)


def _check_compressed(encoder: EncoderConfig) -> None:
    """Check that a compressor fits an encoder.

    Raises:
        ConfigError: if it does not.
    """
    if isinstance(encoder, WindowedConfig) and not encoder.right_context:
        return
    if not isinstance(encoder, ChunkedConfig):
        expected = "a chunked one, or a windowed one with right_context 0"
        raise ConfigError(
            f"connector: a compressor does not fit this encoder ({encoder.describe()}); expected {expected}"
        )


def _check_unit(unit: int, encoder: EncoderConfig) -> None:
    """Check that each chunk or block of an encoder has whole units.

    Raises:
        ConfigError: if one has not.
    """
    if isinstance(encoder, ChunkedConfig):
        sizes = {f"a chunk of look-ahead {lookahead}": lookahead + 1 for lookahead in encoder.lookaheads}
    elif isinstance(encoder, WindowedConfig):
        sizes = {"a block": encoder.block}
    else:
        raise ConfigError(f"connector: it joins {unit} steps, which does not fit an encoder of kind {encoder.kind}")
    for name, steps in sizes.items():
        if steps % unit:
            got = f"it joins {unit} steps, but {name} has {steps}"
            raise ConfigError(f"connector: {got}; choose a divisor of it, or other look-aheads or blocks")


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graphs behind the encoder: `token_embedding`, from tokens to embeddings of the LLM, and `llm_step`."""
    return embedding_spec(config.llm), llm_spec(config.llm, mutual=prepend(config).mask == "non_causal")


KIND = ConnectorKind(
    config=PrependConfig,
    specs=specs,
    speech=speech,
    follows=lambda policy: isinstance(policy, Offline | LocalAgreement),
    aligned=False,
)
