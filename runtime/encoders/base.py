"""What a stream asks of an encoder, and the encoder of a model's kind.

A kind has its file here: `open_encoder` returns a `SpeechEncoder` whose state is one frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import EncoderConfig, ModelConfig
from bestow_edge.core.kinds import module_of
from bestow_edge.core.policy import Offline, Policy
from bestow_edge.runtime.devices.base import Buffer, Graph

Floats = npt.NDArray[np.float32]
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class SpeechSteps:
    """Consecutive encoder steps as the connector takes them."""

    tensors: Mapping[str, Buffer]
    """What `ConnectorKind.speech` lists, by name. Those with an axis of steps may hold more than `end - start`: the
    rest lacks a future, or is silence behind the audio."""
    start: int
    """Index of the first step within the segment."""
    end: int
    """Index after the last one."""


class SpeechEncoder(Protocol[State]):
    """Waveform in, encoder steps out, for one stream. All results depend on the audio alone, not on its blocks."""

    frames_per_step: float
    """Mel frames in one step."""

    def initial_state(self) -> State:
        """Return the state before the first sample."""

    def add(self, samples: Floats, state: State) -> State:
        """Take samples in without encoding: their frames wait for `next_chunk`.

        Args:
            samples: (samples,) float32 at the model's rate.
            state: state after the samples before.
        """

    def end(self, state: State) -> State:
        """End the audio: exactly the frames there are wait for `next_chunk`, whatever their number."""

    def ended(self, state: State) -> bool:
        """Return whether the audio has ended and all of it is encoded."""

    def has_chunk(self, state: State) -> bool:
        """Return whether enough frames wait for `next_chunk`."""

    def next_chunk(self, state: State) -> tuple[SpeechSteps, State]:
        """Encode the next steps; they may overwrite earlier ones of the segment."""

    def restart(self, state: State, first_frame: int) -> tuple[State, int]:
        """Begin anew at an earlier frame, as if the stream began there.

        Args:
            state: state now. It may be another graph's: nothing on its device is taken over then.
            first_frame: the frame to begin with, counted from the first of the segment.

        Returns:
            The new state, and the frame it begins with: a later one if `first_frame` is not kept any more.
        """

    def shortened(self, state: State, end_step: int) -> Sequence[SpeechSteps]:
        """Return what a decoder has to hear for an answer about the first steps of the segment alone.

        Nothing, if a token can see fewer steps than were given out.
        """

    def level(self, state: State, first_step: int, end_step: int) -> float:
        """Return the loudness of some steps of the segment: the median of their frames' mean log-mel, nats."""


def sizes_for(config: ModelConfig, policies: Sequence[Policy]) -> EncoderConfig:
    """Return the encoder's config for a stream: where policies read more or fewer steps than the model's, so does it.

    Raises:
        ConfigError: if the policies read more steps than the encoder can.
    """
    reads = {policy.read_steps for policy in policies if not isinstance(policy, Offline)}
    return config.encoder if not reads or reads == {config.policy.l} else config.encoder.for_policy(min(reads))


def open_encoder(
    graph: Graph, config: ModelConfig, policies: Sequence[Policy], right_context: int, segment_steps: int
) -> SpeechEncoder[Any]:  # Any: each kind has a state of its own
    """Return an encoder of the model's kind for one stream.

    Args:
        graph: the encoder's graph.
        config: the model's.
        policies: those of the stream's texts.
        right_context: steps, one of `config.encoder.right_contexts`.
        segment_steps: most steps of a segment.
    """
    module = module_of("bestow_edge.runtime.encoders", config.encoder.kind)
    encoder: SpeechEncoder[Any] = module.open_encoder(graph, config, policies, right_context, segment_steps)
    return encoder
