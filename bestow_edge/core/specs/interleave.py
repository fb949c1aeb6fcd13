"""Connector kind `interleave`: speech and text take turns in the LLM's sequence, and the LLM decides when it writes.

The sequence is the prompt, the delay, and then, turn by turn, some steps of speech and the tokens that follow them.
Behind a turn the LLM predicts a token, or BLANK, which is its end token and takes no position: the next turn follows.
The last step of a stream is a mark, the end token as an input; behind it the rest of the text is written.
Source: Speech ReaLLM (Seide et al. 2024, arXiv 2406.09569).

In the additive form a step takes no position of its own: it is added to the token before. The LLM predicts one token
for each step, a token of the text or BLANK, which is then the input of the next position together with that step. The
mark is a position without speech. Source: delayed streams (Zeghidour et al. 2025, arXiv 2509.08753).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from bestow_edge.core.config import ConnectorConfig, ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.policy import EveryStep, Policy
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.specs.llm import embedding_spec, llm_spec
from bestow_edge.core.tensors import BATCH, STEPS, GraphSpec, TensorSpec

SPEECH_EMBEDS = "speech_embeds"  # what the encoder hands over
SPEECH = -1  # in place of a token id: the position of a step of speech
LEAST_WINDOW = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class InterleaveConfig(ConnectorConfig):
    """Delays, and how much of a stream the LLM remembers. The sizes are those of the encoder and of the LLM."""

    kind: Literal["interleave"] = "interleave"
    """Name of the kind; it must be given."""
    delays: tuple[int, ...] = (2, 4, 8, 16)
    """Encoder steps from the end of a word to its text, ascending. Training draws one for each utterance, and each has
    an embedding behind the prompt."""
    form: Literal["turns", "additive"] = "turns"
    """Steps of speech are positions of their own, or each is added to the token before it."""
    hidden: int = 0
    """Width of a hidden layer with GELU before the projection; 0 = none."""
    window: int = 1024
    """Most positions of the LLM's sequence. When it is full, the prompt and the newest half stay; the half is run
    again."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.delays or list(self.delays) != sorted({*self.delays}) or self.delays[0] < 0:
            raise ConfigError(f"connector: delays {list(self.delays)}; expected steps from 0, ascending, none twice")
        check_ranges("connector", self, hidden=(0, 2**20), window=(LEAST_WINDOW, 2**20))
        if self.delays[-1] > 10_000:
            raise ConfigError(f"connector: delays {list(self.delays)}; expected at most 10000 steps")

    def for_llm(self, llm: Mapping[str, Any]) -> InterleaveConfig:
        """Return the config with a window that the LLM's context holds."""
        return replace(self, window=min(self.window, llm.get("max_position_embeddings", self.window)))

    def check_llm(self, llm: Mapping[str, Any]) -> None:
        """Check that the window fits the LLM's context."""
        if self.window > (most := llm.get("max_position_embeddings", math.inf)):
            raise ConfigError(
                f"connector: window {self.window}; expected at most the LLM's context of {most} positions"
            )

    def check_policy(self, policy: PolicyConfig) -> None:
        """Check the name, and that the delay has an embedding."""
        if policy.name != "every-step":
            got = f"policy: name {policy.name}; connector interleave decides itself when it writes"
            raise ConfigError(f"{got}: set every-step")
        if policy.delay not in self.delays:
            known = ", ".join(map(str, self.delays))
            raise ConfigError(f"policy: delay {policy.delay}; this model was trained with {known} steps")
        if self.form == "additive" and (policy.l, policy.most_tokens) != (1, 1):
            got = f"policy: l {policy.l}, most_tokens {policy.most_tokens}"
            raise ConfigError(f"{got}; connector interleave in its additive form writes at most 1 token each 1 step")

    def llm_positions(self, steps: int) -> int:
        """Return the positions of the LLM's sequence that speech of some steps takes."""
        return steps

    def describe(self) -> str:
        """Return its sizes, in words for people."""
        before = f"a hidden layer of width {self.hidden}, " if self.hidden else ""
        delays = ", ".join(map(str, self.delays))
        added = " added to the token before" if self.form == "additive" else ""
        of = f"delays of {delays} steps, window of {self.window} positions"
        return f"{before}linear projection of each step{added}, {of}"


def interleave(config: ModelConfig) -> InterleaveConfig:
    """Return the config of the model's connector, which must be of this kind."""
    return cast(InterleaveConfig, config.connector)


def delay_token(config: ModelConfig, delay: int) -> int:
    """Return the id of a delay's embedding: ids behind the LLM's vocabulary, in the order of `delays`."""
    return int(config.llm["vocab_size"]) + interleave(config).delays.index(delay)


def condition(config: ModelConfig, policy: Policy) -> tuple[int, ...]:
    """Return the token of the policy's delay."""
    return (delay_token(config, cast(EveryStep, policy).delay),)


def speech(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the encoder hands over: an embedding of the LLM for each step.

    Raises:
        ConfigError: if the encoder changes steps that it gave out.
    """
    if config.encoder.kind == "blocks":
        got = "encoder of kind blocks encodes a block again as it grows, but a step that the LLM has read stays"
        raise ConfigError(f"connector: {got}; choose one of kind chunked or windowed")
    return (TensorSpec(SPEECH_EMBEDS, "float32", (BATCH, STEPS, config.llm["hidden_size"])),)


def specs(config: ModelConfig) -> tuple[GraphSpec, ...]:
    """Return the graphs behind the encoder: `token_embedding`, of tokens and delays, and `llm_step`."""
    return embedding_spec(config.llm), llm_spec(config.llm)


KIND = ConnectorKind(
    config=InterleaveConfig,
    specs=specs,
    speech=speech,
    follows=lambda policy: isinstance(policy, EveryStep),
    aligned=False,
    continuous=True,
    condition=condition,
)
