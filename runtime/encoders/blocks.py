"""Encoder kind `blocks`: front-end and encoder of one stream, whose finished blocks are encoded once.

The block that grows is encoded again at fixed steps of the stream, so all results depend on the audio alone. State is
one frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.features import (
    FeatureState,
    feed_features,
    finish_features,
    initial_feature_state,
    level,
    normalize_frames,
)
from bestow_edge.core.policy import Offline, Policy
from bestow_edge.core.specs.blocks import CHUNK_FRAMES, CHUNK_STEPS, BlocksConfig, blocks
from bestow_edge.core.tensors import FRAME_END, MEL
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.encoders.base import Floats, SpeechSteps, sizes_for

LEAST_FRAMES = 50  # shorter audio is filled up with silence, as in Qwen3-ASR's own code


@dataclass(frozen=True, slots=True)
class BlockState:
    """Everything an audio stream carries from block to block. Frames count from the segment's first."""

    features: FeatureState
    """Samples that wait for their frame."""
    frames: Floats
    """(frames, mel_bins) of the segment."""
    read: int = 0
    """Frames that were encoded, in finished blocks and in the one that grows."""
    ended: bool = False
    """The audio has ended."""


class EncoderBlocks:
    """Runs the `encoder_block` graph over a growing waveform."""

    def __init__(self, graph: Graph, config: ModelConfig, stride_frames: int, wait_frames: int) -> None:
        """Take the sizes.

        Args:
            graph: the encoder.
            config: the model's configuration.
            stride_frames: mel frames between two encodings of the block that grows.
            wait_frames: mel frames to wait for before the first encoding.
        """
        self.sizes: BlocksConfig = blocks(config)
        self.frames_per_step = self.sizes.frames_per_step
        self._stride, self._wait = stride_frames, wait_frames
        self._features = config.features
        self._speech = [tensor.name for tensor in CONNECTORS[config.connector.kind].speech(config)]
        self._runner = graph.runner()

    def initial_state(self) -> BlockState:
        """Return the state before the first sample."""
        frames = np.zeros((0, self._features.num_mel_bins), dtype=np.float32)
        return BlockState(initial_feature_state(self._features), frames)

    def restart(self, state: BlockState, first_frame: int) -> tuple[BlockState, int]:
        """See `SpeechEncoder`."""
        first_frame = min(first_frame, state.read)
        return replace(state, frames=state.frames[first_frame:], read=0), first_frame

    def shortened(self, state: BlockState, end_step: int) -> tuple[()]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: a token can see fewer steps than were given out."""
        return ()

    def level(self, state: BlockState, first_step: int, end_step: int) -> float:
        """See `SpeechEncoder`."""
        return level(state.frames[self._frame(first_step) : self._frame(end_step)])

    def add(self, samples: Floats, state: BlockState) -> BlockState:
        """See `SpeechEncoder`."""
        frames, features = feed_features(samples, state.features, self._features)
        return replace(state, features=features, frames=np.concatenate([state.frames, frames]))

    def end(self, state: BlockState) -> BlockState:
        """See `SpeechEncoder`."""
        left = finish_features(state.features, self._features)
        if 0 < (real := len(state.frames) + len(left)) < LEAST_FRAMES:
            left = finish_features(state.features, self._features, further=LEAST_FRAMES - real)
        return replace(state, frames=np.concatenate([state.frames, left]), ended=True)

    def ended(self, state: BlockState) -> bool:
        """See `SpeechEncoder`."""
        return state.ended and not self.has_chunk(state)

    def has_chunk(self, state: BlockState) -> bool:
        """Return whether the block can grow by a stride or to its end, or the audio has ended."""
        if state.ended:
            return state.read < len(state.frames)
        return len(state.frames) >= max(self._next(state), self._wait)

    def next_chunk(self, state: BlockState) -> tuple[SpeechSteps, BlockState]:
        """Encode the block that grows, or the next one."""
        end = min(self._next(state), len(state.frames))
        first = state.read // self.sizes.block_frames * self.sizes.block_frames
        heard = state.frames[: max(end, self._wait)]  # the loudest bin so far sets the range of all bins
        block = normalize_frames(state.frames[first:end], self._features, loudest=float(heard.max()))
        mel = np.zeros((1, -(-len(block) // CHUNK_FRAMES) * CHUNK_FRAMES, block.shape[1]), np.float32)
        mel[0, : len(block)] = block
        self._runner.bind({MEL: mel, FRAME_END: np.array([len(block)])})
        out = self._runner.run()
        steps = SpeechSteps(
            {name: out[name] for name in self._speech}, self.sizes.num_steps(first), self.sizes.num_steps(end)
        )
        return steps, replace(state, read=end)

    def _next(self, state: BlockState) -> int:
        """Return the frame behind the next encoding."""
        block = self.sizes.block_frames
        return min(state.read + self._stride, (state.read // block + 1) * block)

    def _frame(self, step: int) -> int:
        return round(step * self.frames_per_step)


def open_encoder(
    graph: Graph,
    config: ModelConfig,
    policies: Sequence[Policy],
    right_context: int,  # noqa: ARG001 - this kind has one
    segment_steps: int,
) -> EncoderBlocks:
    """Return the encoder of a stream. If nothing is written before its end, it waits for a whole segment."""
    sizes = cast(BlocksConfig, sizes_for(config, policies))
    if all(isinstance(policy, Offline) for policy in policies):
        seconds = -(-segment_steps // CHUNK_STEPS)
        return EncoderBlocks(graph, config, sizes.block_frames, seconds * CHUNK_FRAMES)
    return EncoderBlocks(graph, config, sizes.stride // CHUNK_STEPS * CHUNK_FRAMES, 0)
