"""Encoder kind `chunked`: front-end and cache-aware encoder of one stream.

State is one frozen dataclass, and a step returns a new one. The attention caches alone are rings that all states of a
stream share, written in place. A state counts the steps in them. So a stream may go back to an earlier state as long as
fewer than two chunks were encoded since, as drafts do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.features import FeatureState, feed_features, finish_features, initial_feature_state, level
from bestow_edge.core.policy import Policy
from bestow_edge.core.specs.chunked import FIRST_FRAME, chunked
from bestow_edge.core.tensors import CACHE, FRAME_END, FRAME_START, MEL, NEW, NEXT, PAST_STEPS
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.devices.slots import to_slots
from bestow_edge.runtime.encoders.base import Floats, SpeechSteps

RECENT_STEPS = 4096  # 5.5 minutes, as much as a speech memory holds: what may be heard again


@dataclass(frozen=True, slots=True)
class EncoderState:
    """Everything an audio stream carries from block to block."""

    features: FeatureState
    """Samples that wait for their frame."""
    frames: Floats
    """(frames, mel_bins) that wait for their chunk; the first chunk begins with frames that don't exist."""
    frame_start: int
    """First real frame among `frames`: 7 at the start of a stream, else 0."""
    rings: dict[str, Buffer] = field(repr=False)
    """The graph's attention caches by name, shared and written in place."""
    caches: dict[str, Buffer] = field(repr=False)
    """What its convolutions need of the past, by name."""
    recent: Floats
    """(frames, mel_bins) encoded last, at most `RECENT_STEPS` steps."""
    num_frames: int = 0
    """Frames encoded since the first of the segment."""
    ended: bool = False
    """The audio has ended: what waits is encoded whether it fills a chunk or not."""
    steps: int = 0
    """Steps encoded since the first of the segment."""


class EncoderStream:
    """Runs the `encoder_chunk` graph over a growing waveform."""

    def __init__(self, graph: Graph, config: ModelConfig, right_context: int) -> None:
        """Choose the chunk size.

        Args:
            graph: the encoder.
            config: the model's configuration.
            right_context: in steps, one of `config.encoder.right_contexts`.
        """
        self.config = config
        self.frames_per_step = chunked(config).frames_per_step
        self.chunk_frames = (right_context + 1) * self.frames_per_step
        self._speech = [tensor.name for tensor in CONNECTORS[config.connector.kind].speech(config)]
        self._states = graph.spec.states
        self._rings = [tensor for tensor in graph.spec.inputs if tensor.name.startswith(CACHE)]
        self._device, self._runner = graph.device, graph.runner()
        self._made: dict[str, Buffer] = {}  # rings of its own, as opposed to those of another device

    def initial_state(self) -> EncoderState:
        """Return the state before the first sample."""
        self._made = self._device.zeros(self._rings)
        return self._first_state(self._made)

    def _first_state(self, rings: dict[str, Buffer]) -> EncoderState:
        return EncoderState(
            features=initial_feature_state(self.config.features),
            frames=np.zeros((FIRST_FRAME, self.config.features.num_mel_bins), dtype=np.float32),
            frame_start=FIRST_FRAME,
            rings=rings,
            caches=self._device.zeros(self._states),
            recent=np.zeros((0, self.config.features.num_mel_bins), dtype=np.float32),
        )

    def restart(self, state: EncoderState, first_frame: int) -> tuple[EncoderState, int]:
        """Begin anew at an earlier frame, as if the stream began there.

        Args:
            state: state now, which may be another graph's: nothing on its device is taken over then.
            first_frame: the frame to begin with, counted from the first of the segment.

        Returns:
            The new state, and the frame it begins with: a later one if `first_frame` is not kept any more.
        """
        fresh = self._first_state(state.rings) if state.rings is self._made else self.initial_state()
        oldest = state.num_frames - state.recent.shape[0]
        first_frame = min(max(first_frame, oldest), state.num_frames)
        waiting = state.frames[state.frame_start :]
        frames = np.concatenate([fresh.frames, state.recent[first_frame - oldest :], waiting])
        return replace(fresh, features=state.features, frames=frames, ended=state.ended), first_frame

    def shortened(self, state: EncoderState, end_step: int) -> tuple[()]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: a token can see fewer steps than were given out."""
        return ()

    def level(self, state: EncoderState, first_step: int, end_step: int) -> float:
        """Return how loud some steps of the segment are: the median of their frames' mean log-mel, nats."""
        oldest = state.num_frames - state.recent.shape[0]
        first, end = (max(0, step * self.frames_per_step - oldest) for step in (first_step, end_step))
        return level(state.recent[first:end])

    def add(self, samples: Floats, state: EncoderState) -> EncoderState:
        """Take samples in without encoding: their frames wait for `next_chunk`."""
        frames, features = feed_features(samples, state.features, self.config.features)
        return replace(state, features=features, frames=np.concatenate([state.frames, frames]))

    def has_chunk(self, state: EncoderState) -> bool:
        """Return whether enough frames wait for a chunk."""
        num_frames = state.frames.shape[0]
        return bool(num_frames > state.frame_start if state.ended else num_frames >= self.chunk_frames)

    def next_chunk(self, state: EncoderState) -> tuple[SpeechSteps, EncoderState]:
        """Encode the next chunk, which must be there; a part of one at the end of the audio."""
        return self._chunk(state, min(state.frames.shape[0], self.chunk_frames))

    def end(self, state: EncoderState) -> EncoderState:
        """End the audio: exactly the frames there are wait for `next_chunk`, whatever their number."""
        frames = finish_features(state.features, self.config.features)
        return replace(state, frames=np.concatenate([state.frames, frames]), ended=True)

    def ended(self, state: EncoderState) -> bool:
        """Return whether the audio has ended and all of it is encoded."""
        return state.ended and not self.has_chunk(state)

    def _chunk(self, state: EncoderState, num_frames: int) -> tuple[SpeechSteps, EncoderState]:
        """Run one chunk of `num_frames` frames, filled up to whole steps."""
        steps = -(-num_frames // self.frames_per_step)
        mel = np.zeros((1, steps * self.frames_per_step, state.frames.shape[1]), dtype=np.float32)
        mel[0, :num_frames] = state.frames[:num_frames]
        self._runner.bind(state.rings)
        self._runner.bind(state.caches)
        self._runner.bind(
            {
                MEL: mel,
                FRAME_START: np.array([state.frame_start]),
                FRAME_END: np.array([num_frames]),
                PAST_STEPS: np.array([state.steps]),
            }
        )
        out = self._runner.run()
        new = ((ring, out[NEW + name.removeprefix(CACHE)]) for name, ring in state.rings.items())
        self._device.copy(pair for ring, steps in new for pair in to_slots(ring, steps, state.steps))
        recent = np.concatenate([state.recent, state.frames[state.frame_start : num_frames]])
        speech = SpeechSteps({name: out[name] for name in self._speech}, state.steps, state.steps + steps)
        state = replace(
            state,
            frames=state.frames[num_frames:],
            frame_start=0,
            caches={tensor.name: out[NEXT + tensor.name] for tensor in self._states},
            recent=recent[-RECENT_STEPS * self.frames_per_step :],
            num_frames=state.num_frames + num_frames - state.frame_start,
            steps=state.steps + steps,
        )
        return speech, state


def open_encoder(
    graph: Graph,
    config: ModelConfig,
    policies: Sequence[Policy],  # noqa: ARG001 - see `bestow_edge.runtime.encoders.base.open_encoder`
    right_context: int,
    segment_steps: int,  # noqa: ARG001 - as above
) -> EncoderStream:
    """Return the encoder of a stream."""
    return EncoderStream(graph, config, right_context)
