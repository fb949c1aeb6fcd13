"""Encoder kind `windowed`: front-end and bidirectional encoder of one stream.

A bidirectional encoder has no caches: for each new block of steps all audio so far, bounded by a window, is encoded
again with some right context, whose steps are dropped until the audio has ended. Encodings happen at fixed steps of the
stream, so their results depend on the audio alone. State is one frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.features import (
    FeatureState,
    feed_features,
    finish_features,
    initial_feature_state,
    level,
    normalize_frames,
)
from bestow_edge.core.policy import Offline, Policy
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.core.tensors import FRAME_END, MEL
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.encoders.base import Floats, SpeechSteps, sizes_for


@dataclass(frozen=True, slots=True)
class WindowState:
    """Everything an audio stream carries from block to block. Frames and steps count from the segment's first."""

    features: FeatureState
    """Samples that wait for their frame."""
    frames: Floats
    """(frames, mel_bins) from the start of the last window on, those that wait for the next block included."""
    first_frame: int = 0
    """Index of the first of `frames`."""
    steps: int = 0
    """Steps given out so far."""

    tail: Floats | None = None
    """(frames, mel_bins) of the silence behind the end, as far as they hear the audio; None before the end."""
    ended: bool = False
    """The audio has ended: the next window goes to its end and drops nothing."""
    done: bool = False
    """The end has been encoded."""


class EncoderWindow:
    """Runs the `encoder_window` graph over a growing waveform."""

    def __init__(self, graph: Graph, sizes: WindowedConfig, config: ModelConfig) -> None:
        """Take the sizes.

        Args:
            graph: the encoder.
            sizes: block, right context and window.
            config: the model's configuration.
        """
        self.sizes = sizes
        self.frames_per_step = sizes.frames_per_step
        self._features = config.features
        self._speech = [tensor.name for tensor in CONNECTORS[config.connector.kind].speech(config)]
        self._whole = config.connector.sees_all
        self._settled = _in_sequence(config) and not self._whole  # no step changes once it was given out
        self._positions = config.connector.llm_positions
        self._runner = graph.runner()

    def initial_state(self) -> WindowState:
        """Return the state before the first sample."""
        frames = np.zeros((0, self._features.num_mel_bins), dtype=np.float32)
        return WindowState(features=initial_feature_state(self._features), frames=frames)

    def restart(self, state: WindowState, first_frame: int) -> tuple[WindowState, int]:
        """See `SpeechEncoder`."""
        first_frame = min(max(first_frame, state.first_frame), state.steps * self.frames_per_step)
        frames = state.frames[first_frame - state.first_frame :]
        return replace(self.initial_state(), features=state.features, frames=frames, ended=state.ended), first_frame

    def level(self, state: WindowState, first_step: int, end_step: int) -> float:
        """See `SpeechEncoder`."""
        first, end = (max(0, step * self.frames_per_step - state.first_frame) for step in (first_step, end_step))
        return level(state.frames[first:end])

    def shortened(self, state: WindowState, end_step: int) -> list[SpeechSteps]:
        """Encode the segment again up to an earlier step, if a token sees all of an encoding."""
        return [self._encode(end_step * self.frames_per_step, state)[0]] if self._whole else []

    def add(self, samples: Floats, state: WindowState) -> WindowState:
        """See `SpeechEncoder`."""
        frames, features = feed_features(samples, state.features, self._features)
        return replace(state, features=features, frames=np.concatenate([state.frames, frames]))

    def has_chunk(self, state: WindowState) -> bool:
        """Return whether the next block and its right context are there, or the end of the audio."""
        return self._has_block(state) or (state.ended and not state.done and self._end(state) > 0)

    def next_chunk(self, state: WindowState) -> tuple[SpeechSteps, WindowState]:
        """Encode all up to the next block, which must be there: its steps are new, those before it overwrite."""
        if not self._has_block(state):
            speech, state = self._encode(self._end(state), state)
            return speech, replace(state, steps=speech.end, done=True)
        speech, state = self._encode(self._next_end(state) * self.frames_per_step, state)
        end = state.steps + self.sizes.block
        return replace(speech, end=end), replace(state, steps=end)

    def end(self, state: WindowState) -> WindowState:
        """See `SpeechEncoder`."""
        reach = self._features.window_samples // self._features.hop_samples
        left = finish_features(state.features, self._features, further=reach)
        end = len(left) - reach
        return replace(state, frames=np.concatenate([state.frames, left[:end]]), tail=left[end:], ended=True)

    def ended(self, state: WindowState) -> bool:
        """See `SpeechEncoder`."""
        return state.ended and not self.has_chunk(state)

    def _has_block(self, state: WindowState) -> bool:
        return self._end(state) >= self._next_end(state) * self.frames_per_step

    @staticmethod
    def _end(state: WindowState) -> int:
        """Return the frame behind the last one there is."""
        return state.first_frame + len(state.frames)

    def _next_end(self, state: WindowState) -> int:
        """Return the step behind the next window."""
        return state.steps + self.sizes.block + self.sizes.right_context

    def _encode(self, end_frame: int, state: WindowState) -> tuple[SpeechSteps, WindowState]:
        """Encode the window that ends before `end_frame` and forget the frames before it."""
        end = -(-end_frame // self.frames_per_step)
        start = max(0, end - self.sizes.window)
        frames = state.frames[start * self.frames_per_step - state.first_frame :]
        state = replace(state, frames=frames, first_frame=start * self.frames_per_step)
        heard = frames[: end_frame - state.first_frame]
        if silent := min(self.sizes.padding, start + self.sizes.window - end):
            heard = self._with_silence(heard, (end - start + silent) * self.frames_per_step, state)
        heard = normalize_frames(heard, self._features)
        mel = np.zeros((1, -(-len(heard) // self.frames_per_step) * self.frames_per_step, frames.shape[1]), np.float32)
        mel[0, : len(heard)] = heard
        self._runner.bind({MEL: mel, FRAME_END: np.array([len(heard)])})
        out = self._runner.run()
        if not self._settled:
            return SpeechSteps({name: out[name] for name in self._speech}, start, end), state
        first = max(start, state.steps)
        skipped = self._positions(first - start)
        return SpeechSteps({name: out[name][:, skipped:] for name in self._speech}, first, end), state

    def _with_silence(self, heard: Floats, num_frames: int, state: WindowState) -> Floats:
        """Return frames and, up to a number of them, those of silence; `tail` follows the last one."""
        if state.tail is not None and state.first_frame + len(heard) == self._end(state):
            heard = np.concatenate([heard, state.tail])
        to_pad = max(0, num_frames - len(heard))
        silence = np.log(self._features.log_guard)
        return np.pad(heard[:num_frames], ((0, to_pad), (0, 0)), constant_values=silence)


def open_encoder(
    graph: Graph,
    config: ModelConfig,
    policies: Sequence[Policy],
    right_context: int,  # noqa: ARG001 - this kind has one
    segment_steps: int,
) -> EncoderWindow:
    """Return the encoder of a stream.

    If nothing is written before its end, it encodes half a window at a time, or a whole one with silence behind. Speech
    for the LLM's sequence is encoded a segment at a time, as far as the window holds one.
    """
    sizes, unit = cast(WindowedConfig, sizes_for(config, policies)), config.connector.unit
    if sizes.block % unit:
        raise ConfigError(f"policy: it reads {sizes.block} steps, but the connector joins {unit}; choose a multiple")
    if all(isinstance(policy, Offline) for policy in policies):
        room = sizes.window - sizes.right_context
        block = room if sizes.padding else room // 2
        if _in_sequence(config):
            block = min(room, segment_steps) // unit * unit
        sizes = replace(sizes, block=max(sizes.block, block))
    return EncoderWindow(graph, sizes, config)


def _in_sequence(config: ModelConfig) -> bool:
    """Return whether speech takes positions of the LLM's sequence."""
    return config.connector.llm_positions(1) > 0
