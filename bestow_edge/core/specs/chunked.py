"""Encoder kind `chunked`: a cache-aware FastConformer that encodes each chunk once.

A step attends to its own chunk and to a fixed number of steps before it, so nothing is ever encoded twice. The right
context of a session fixes the size of its chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

from bestow_edge.core.config import EncoderConfig, FeatureConfig, ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.kinds import EncoderKind
from bestow_edge.core.ranges import check_ranges
from bestow_edge.core.tensors import (
    BATCH,
    CACHE,
    FRAME_END,
    FRAME_START,
    FRAMES,
    KINDS,
    MEL,
    NEW,
    PAST_STEPS,
    STEPS,
    DerivedAxis,
    GraphSpec,
    TensorSpec,
)

GRAPH = "encoder_chunk"
NEMOTRON = "nemotron_asr_streaming_encoder"  # transformers' model type
MOST_STEPS = 100_000  # 2.2 hours
FIRST_FRAME = 7  # frames that pad the first chunk: its first step hears one real frame only


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkedConfig(EncoderConfig):
    """A cache-aware encoder and its attention contexts, in encoder steps (80 ms)."""

    kind: Literal["chunked"] = "chunked"
    """Name of the kind; it must be given."""
    left_context: int = 70
    """Steps of the past an encoder step may attend to; the size of the attention cache."""
    lookaheads: tuple[int, ...] = (13, 6, 1, 0)
    """Right contexts a session may choose; a chunk has one step more."""
    default_lookahead: int = 13
    """Right context used when a session names none."""

    model_types: ClassVar[tuple[str, ...]] = (NEMOTRON,)
    frames_per_step: ClassVar[int] = 8  # FastConformer's factor (paper, section 3: P = 8)
    run_multiple: ClassVar[int] = frames_per_step

    def __post_init__(self) -> None:
        """Check that each chunk divides the left context, which makes chunked and whole-utterance masks equal."""
        EncoderConfig.__post_init__(self)
        if self.left_context < 1:
            raise ConfigError(f"encoder: left_context must be at least 1, got {self.left_context}")
        if self.default_lookahead not in self.lookaheads:
            raise ConfigError(f"encoder: default_lookahead {self.default_lookahead} is not in {self.lookaheads}")
        check_ranges("encoder", self, left_context=(1, MOST_STEPS), default_lookahead=(-1, MOST_STEPS))
        for lookahead in self.lookaheads:
            if lookahead < 0 or self.left_context % (lookahead + 1):
                chunk = lookahead + 1
                raise ConfigError(f"encoder: chunk of {chunk} steps does not divide left_context {self.left_context}")
        expected = self.left_context + 1  # transformers counts the step itself
        if (window := self.network.get("sliding_window", expected)) != expected:
            raise ConfigError(f"encoder: network has sliding_window {window}, left_context needs {expected}")

    @property
    def right_contexts(self) -> tuple[int, ...]:
        """Right contexts that a session may choose from, steps."""
        return self.lookaheads

    @property
    def default_right_context(self) -> int:
        """Right context of a session that names none, steps."""
        return self.default_lookahead

    def chunk_steps(self, right_context: int) -> int:
        """Return the steps of a chunk."""
        return right_context + 1

    def for_unit(self, unit: int) -> ChunkedConfig:
        """Return the config with those look-aheads alone whose chunks have whole units.

        Raises:
            ConfigError: if there are none.
        """
        kept = tuple(lookahead for lookahead in self.lookaheads if (lookahead + 1) % unit == 0)
        if not kept:
            chunks = ", ".join(str(lookahead + 1) for lookahead in self.lookaheads)
            raise ConfigError(
                f"connector: it joins {unit} steps, but the encoder's chunks have {chunks}; take a divisor"
            )
        default = self.default_lookahead if self.default_lookahead in kept else kept[0]
        return replace(self, lookaheads=kept, default_lookahead=default)

    @property
    def max_chunk_steps(self) -> int:
        """Encoder steps in the largest chunk."""
        return max(self.lookaheads) + 1

    @property
    def cache_slots(self) -> int:
        """Slots of the attention caches: the left context and twice the largest chunk.

        The steps a chunk attends to stay where they are while two more chunks are written, so that the chunks of a
        draft can be forgotten.
        """
        return self.left_context + 2 * self.max_chunk_steps

    @property
    def run_frames(self) -> tuple[int, ...]:
        """Mel frames of a chunk at each look-ahead."""
        return tuple(sorted(self.frames_per_step * (lookahead + 1) for lookahead in self.lookaheads))

    def num_steps(self, num_frames: int) -> int:
        """Return the steps of an utterance: step s hears the frames up to 8 s (causal sub-sampling)."""
        return -(-(num_frames - 1) // self.frames_per_step) + 1 if num_frames else 0

    def settled_network(self, features: FeatureConfig) -> dict[str, Any]:
        """Return the network's config with the fields that follow from the front-end and from this config."""
        network = EncoderConfig.settled_network(self, features)
        return network | {"sliding_window": self.left_context + 1}  # transformers counts the step itself

    def check_features(self, features: FeatureConfig) -> None:
        """Check that the front-end needs no frames of the future."""
        EncoderConfig.check_features(self, features)
        if features.normalize != "none":
            got = f"normalize {features.normalize!r} needs all frames at once"
            raise ConfigError(
                f"features: {got}, but encoder {self.kind} hears them chunk by chunk; set normalize: none"
            )

    def describe(self) -> str:
        """Return how it streams, in words for people."""
        steps = ", ".join(map(str, self.lookaheads))
        return f"cache-aware, look-aheads {steps} steps of 80 ms, default {self.default_lookahead}"


def spec(config: ModelConfig, speech: tuple[TensorSpec, ...]) -> GraphSpec:
    """`encoder_chunk`: mel frames and caches -> speech for the connector, and the next caches.

    `frames` is a multiple of 8, at most one chunk of the largest look-ahead. The first chunk of a stream begins with
    `FIRST_FRAME` frames that do not exist, and the last one may end with some: [frame_start, frame_end) are real.
    `past_steps` counts the steps encoded before. The attention caches are rings, bound in place: step a is in slot
    a mod `cache_slots`. Keys and values of the new steps come out, and the runtime stores them. A convolution needs
    little of the past, so its cache comes out whole.
    """
    encoder = chunked(config)
    new = (BATCH, encoder.network["num_attention_heads"], STEPS, _head_dim(encoder))
    return GraphSpec(
        name=GRAPH,
        part="encoder",
        inputs=(
            TensorSpec(MEL, "float32", (BATCH, FRAMES, config.features.num_mel_bins)),
            TensorSpec(FRAME_START, "int64", (BATCH,)),
            TensorSpec(FRAME_END, "int64", (BATCH,)),
            TensorSpec(PAST_STEPS, "int64", (BATCH,)),
            *attention_caches(config),
        ),
        outputs=(
            *speech,
            *(TensorSpec(tensor.name.replace(CACHE, NEW, 1), "float32", new) for tensor in attention_caches(config)),
        ),
        states=convolution_caches(config),
        derived=(DerivedAxis(STEPS, FRAMES, encoder.frames_per_step),),
    )


def chunked(config: ModelConfig) -> ChunkedConfig:
    """Return the config of the model's encoder, which must be of this kind."""
    return cast(ChunkedConfig, config.encoder)


def attention_caches(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the rings of the attention: keys and values of each layer."""
    encoder = chunked(config)
    axes = (BATCH, encoder.network["num_attention_heads"], encoder.cache_slots, _head_dim(encoder))
    layers = range(encoder.network["num_hidden_layers"])
    return tuple(TensorSpec(f"{CACHE}{kind}_{layer}", "float32", axes) for layer in layers for kind in KINDS)


def convolution_caches(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what the convolutions need of the past, one tensor each: of the sub-sampling and of each layer."""
    encoder = chunked(config)
    network = encoder.network
    states = []
    channels, bins = 1, config.features.num_mel_bins
    for stage in range(encoder.frames_per_step.bit_length() - 1):
        states.append(TensorSpec(f"subsampling_cache_{stage}", "float32", (BATCH, channels, 1, bins)))
        channels, bins = network["subsampling_conv_channels"], bins // 2 + 1
    axes = (BATCH, network["hidden_size"], network["conv_kernel_size"] - 1)
    layers = range(network["num_hidden_layers"])
    return (*states, *(TensorSpec(f"conv_cache_{layer}", "float32", axes) for layer in layers))


def _head_dim(encoder: ChunkedConfig) -> int:
    return int(encoder.network["hidden_size"] // encoder.network["num_attention_heads"])


KIND = EncoderKind(config=ChunkedConfig, spec=spec)
