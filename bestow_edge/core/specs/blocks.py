"""Encoder kind `blocks`: an encoder whose blocks hear nothing but themselves, so that a finished one never changes.

The block that grows is encoded again as audio comes. Source: Qwen3-ASR, whose blocks have 8 s: convolutions over whole
seconds, 13 steps each, and attention within the block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from bestow_edge.core.config import EncoderConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import EncoderKind
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.specs.windowed import whole_inputs
from bestow_edge.core.tensors import FRAMES, STEPS, DerivedAxis, GraphSpec, TensorSpec

GRAPH = "encoder_block"
QWEN3_ASR = "qwen3_asr_encoder"  # transformers' model type
CHUNK_FRAMES, CHUNK_STEPS = 100, 13  # what the convolutions see at once (1 s)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlocksConfig(EncoderConfig):
    """An encoder of blocks and how it streams."""

    kind: Literal["blocks"] = "blocks"
    """Name of the kind; it must be given."""
    stride: int = CHUNK_STEPS
    """Steps between two encodings of the block that grows, whole seconds of 13."""

    model_types: ClassVar[tuple[str, ...]] = (QWEN3_ASR,)
    frames_per_step: ClassVar[float] = CHUNK_FRAMES / CHUNK_STEPS
    run_multiple: ClassVar[int] = CHUNK_FRAMES

    def __post_init__(self) -> None:
        """Check the sizes of chunks and blocks."""
        EncoderConfig.__post_init__(self)
        if self.stride < 1 or self.stride % CHUNK_STEPS:
            raise ConfigError(f"encoder: stride {self.stride}; expected a multiple of {CHUNK_STEPS} steps (1 s)")
        check_ranges("encoder", self, stride=(1, 100_000))
        chunk, block = 2 * self.network.get("n_window", 0), self.network.get("n_window_infer", 0)
        if chunk != CHUNK_FRAMES or block < chunk or block % chunk:
            got = f"n_window {chunk // 2} and n_window_infer {block}"
            raise ConfigError(f"encoder: {got}; expected {CHUNK_FRAMES // 2} and a multiple of {CHUNK_FRAMES}")

    @property
    def block_frames(self) -> int:
        """Mel frames of a whole block."""
        return int(self.network["n_window_infer"])

    @property
    def right_contexts(self) -> tuple[int, ...]:
        """The encoder hears no later steps."""
        return (0,)

    @property
    def default_right_context(self) -> int:
        """The encoder hears no later steps."""
        return 0

    @property
    def run_frames(self) -> tuple[int, ...]:
        """Mel frames of a whole block."""
        return (self.block_frames,)

    def num_steps(self, num_frames: int) -> int:
        """Return the steps of an utterance: 13 for each second, and those of the convolutions for a last part."""
        chunks, rest = divmod(num_frames, CHUNK_FRAMES)
        for _ in range(3):  # convolutions of stride 2
            rest = (rest + 1) // 2
        return chunks * CHUNK_STEPS + rest

    def for_policy(self, l: int) -> BlocksConfig:  # noqa: E741 - the paper's letter
        """Return the config with an encoding for each attempt at a token, in whole seconds."""
        return replace(self, stride=-(-l // CHUNK_STEPS) * CHUNK_STEPS)

    def describe(self) -> str:
        """Return how it streams, in words for people."""
        return f"blocks of {self.num_steps(self.block_frames)} steps, the last one encoded again every {self.stride}"


def blocks(config: ModelConfig) -> BlocksConfig:
    """Return the config of the model's encoder, which must be of this kind."""
    return cast(BlocksConfig, config.encoder)


def spec(config: ModelConfig, speech: tuple[TensorSpec, ...]) -> GraphSpec:
    """`encoder_block`: mel frames of one block -> speech of its steps for the connector.

    `frames` is a multiple of 100, of which the first `frame_end` are real; steps of the others mean nothing.
    """
    return GraphSpec(
        name=GRAPH,
        part="encoder",
        inputs=whole_inputs(config),
        outputs=speech,
        derived=(DerivedAxis(STEPS, FRAMES, CHUNK_FRAMES, factor=CHUNK_STEPS),),
    )


KIND = EncoderKind(config=BlocksConfig, spec=spec)
