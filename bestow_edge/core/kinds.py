"""A kind of encoder or connector, as the formats see it: a row of `ENCODERS` or `CONNECTORS`.

A kind has a file of its name in `core/specs` and `runtime`; in `model` and `export/graphs` a connector has one of its
kind's name, and an encoder one of its network's `model_type`: how it streams is settled outside of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from bestow_edge.core.config import ConnectorConfig, EncoderConfig, ModelConfig
from bestow_edge.core.policy import EveryStep, Policy
from bestow_edge.core.tensors import GraphSpec, TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderKind:
    """A kind of encoder."""

    config: type[EncoderConfig]
    """Its config; the strict decoder chooses it by the field `kind`."""
    spec: Callable[[ModelConfig, tuple[TensorSpec, ...]], GraphSpec]
    """Contract of its graph, given the tensors that it hands over to the connector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorKind:
    """A kind of connector."""

    config: type[ConnectorConfig]
    """Its config; the strict decoder chooses it by the field `kind`."""
    speech: Callable[[ModelConfig], tuple[TensorSpec, ...]]
    """Tensors that the encoder's graph hands over, each with an axis `steps`."""
    specs: Callable[[ModelConfig], tuple[GraphSpec, ...]]
    """Contracts of the graphs behind the encoder, in the order they run."""
    follows: Callable[[Policy], bool]
    """Whether it can be run under a policy."""
    aligned: bool = True
    """Whether attention shows where in the speech each token of an answer is spoken."""
    own_losses: tuple[str, ...] = ()
    """Losses of a stage that train it alone: `attention_weight` its attention, `reading_weight`, and with it the
    objective `reading`, what it adds to the token embeddings."""
    continuous: bool = False
    """Whether the LLM hears speech in turns and decides after each one what it writes, under policy `EveryStep` and no
    other. A stream is then one segment of any length."""
    condition: Callable[[ModelConfig, Policy], tuple[int, ...]] = lambda _config, _policy: ()
    """Tokens behind a prompt that tell the LLM the policy."""
    scores_several: Callable[[ModelConfig], bool] = lambda _config: False
    """Whether its LLM's graph should score several tokens in one run, see `scoring_several`."""

    def can_follow(self, policy: Policy) -> bool:
        """Return whether a session may run it under a policy."""
        return (
            isinstance(policy, EveryStep)
            if self.continuous
            else (not isinstance(policy, EveryStep) and self.follows(policy))
        )


def module_of(package: str, kind: str) -> ModuleType:
    """Import the file of a kind in one layer.

    Args:
        package: such as `bestow_edge.runtime.encoders`.
        kind: name of a kind in `ENCODERS` or `CONNECTORS`, or one of `EncoderConfig.model_types`.
    """
    return import_module(f"{package}.{kind}")
