"""Encoder kind `windowed`: a bidirectional encoder that encodes all audio so far again for each block.

Source: BESTOW-S-bidi of the paper, section 3.2; the bound on the window is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from bestow_edge.core.config import EncoderConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import EncoderKind
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.tensors import BATCH, FRAME_END, FRAMES, MEL, POSITIONS, STEPS, DerivedAxis, GraphSpec, TensorSpec

GRAPH = "encoder_window"
PARAKEET, WHISPER = "parakeet_encoder", "whisper"  # transformers' model types
MOST_STEPS = 100_000  # 2.2 hours
POSITIONS_PER_STEP = {PARAKEET: 1, WHISPER: 4}
"""Positions of the network that are stacked to one step of 80 ms, by its `model_type`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowedConfig(EncoderConfig):
    """A bidirectional encoder and how it streams, in encoder steps (80 ms); Whisper's stacks four of its positions."""

    kind: Literal["windowed"] = "windowed"
    """Name of the kind; it must be given."""
    block: int = 4
    """Steps between two encodings; the default is wait-k's L, so that no token waits for more than it must see."""
    right_context: int = 13
    """Steps at the end of each encoding that are dropped, because they lack a future, until the audio has ended."""
    window: int = 375
    """Most steps encoded at once (30 s), right context included; older steps keep the values they had last."""
    padding: int = 0
    """Steps of silence behind the audio of each encoding, as far as the window has room for them."""
    taps: tuple[int, ...] = ()
    """Layers of a FastConformer whose outputs stand side by side in a step, from 0; empty = that of the last alone."""

    model_types: ClassVar[tuple[str, ...]] = (PARAKEET, WHISPER)
    frames_per_step: ClassVar[int] = 8  # FastConformer's factor (paper, section 3: P = 8)
    run_multiple: ClassVar[int] = frames_per_step

    def __post_init__(self) -> None:
        """Check that each window reaches back to the steps before it."""
        EncoderConfig.__post_init__(self)
        if self.block < 1 or min(self.right_context, self.padding) < 0:
            got = f"block={self.block}, right_context={self.right_context}, padding={self.padding}"
            raise ConfigError(f"encoder: block must be at least 1, right_context and padding at least 0, got {got}")
        if self.window < (need := self.block + self.right_context):
            raise ConfigError(f"encoder: window {self.window} is below block + right_context, which are {need}")
        most = (0, MOST_STEPS)
        check_ranges("encoder", self, block=most, right_context=most, window=most, padding=most)
        if self.taps and (model_type := self.network["model_type"]) != PARAKEET:
            raise ConfigError(
                f"encoder: taps {self.taps}, but only {PARAKEET} gives outputs of layers, not {model_type}"
            )
        if self.taps and not 0 <= min(self.taps) <= max(self.taps) < self.network["num_hidden_layers"]:
            last = self.network["num_hidden_layers"] - 1
            raise ConfigError(f"encoder: taps {self.taps}; expected layers from 0 to {last}")

    @property
    def positions_per_step(self) -> int:
        """Positions of the network that are stacked to one step."""
        return POSITIONS_PER_STEP[self.network["model_type"]]

    @property
    def width(self) -> int:
        """Width of a step as the connector gets it."""
        return int(self.network["hidden_size"]) * self.positions_per_step * max(1, len(self.taps))

    @property
    def whole_steps(self) -> int:
        """Most steps of which one encoding gives all, in whole blocks."""
        return (self.window - self.right_context) // self.block * self.block

    @property
    def right_contexts(self) -> tuple[int, ...]:
        """Right contexts that a session may choose from, steps: one."""
        return (self.right_context,)

    @property
    def default_right_context(self) -> int:
        """Right context of every session, steps."""
        return self.right_context

    @property
    def run_frames(self) -> tuple[int, ...]:
        """Mel frames of the largest window."""
        return (self.frames_per_step * self.window,)

    def num_steps(self, num_frames: int) -> int:
        """Return the steps of an utterance: the last one may be filled up."""
        return -(-num_frames // self.frames_per_step)

    def for_policy(self, l: int) -> WindowedConfig:  # noqa: E741 - the paper's letter
        """Return the config with a new encoding for each token of wait-k."""
        return replace(self, block=l)

    def describe(self) -> str:
        """Return how it streams, in words for people."""
        sizes = f"at most {self.window} steps of 80 ms, right context {self.right_context}"
        sizes += f", {self.padding} of silence behind" if self.padding else ""
        sizes += f", outputs of layers {', '.join(map(str, self.taps))}" if self.taps else ""
        return f"bidirectional, encoded again every {self.block} steps: {sizes}"


def windowed(config: ModelConfig) -> WindowedConfig:
    """Return the config of the model's encoder, which must be of this kind."""
    return cast(WindowedConfig, config.encoder)


def spec(config: ModelConfig, speech: tuple[TensorSpec, ...]) -> GraphSpec:
    """`encoder_window`: mel frames -> speech of all their steps for the connector.

    `frames` is a multiple of 8, of which the first `frame_end` are real; there is no other bound.
    """
    per_step = WindowedConfig.frames_per_step
    return GraphSpec(
        name=GRAPH,
        part="encoder",
        inputs=whole_inputs(config),
        outputs=speech,
        derived=(
            DerivedAxis(POSITIONS, FRAMES, per_step // config.encoder.positions_per_step),
            DerivedAxis(STEPS, FRAMES, per_step),
        ),
    )


def whole_inputs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the inputs of an encoder without caches: mel frames, and how many of them are real."""
    mel = TensorSpec(MEL, "float32", (BATCH, FRAMES, config.features.num_mel_bins))
    return mel, TensorSpec(FRAME_END, "int64", (BATCH,))


KIND = EncoderKind(config=WindowedConfig, spec=spec)
