"""Model configuration shared by training, export and runtime; knows numpy-free plain Python only.

A checkpoint's `config.json` and a bundle's `bundle.json` hold a `ModelConfig`. Reading is strict: an unknown key is an
error that names the known ones, so that a misspelt field never silently takes its default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError

SUBSAMPLING = 8  # mel frames per encoder step, FastConformer's factor (paper, section 3: P = 8)
CACHE_AWARE_ENCODERS = ("nemotron_asr_streaming_encoder",)  # transformers' model types: causal, chunk by chunk
BIDIRECTIONAL_ENCODERS = ("parakeet_encoder",)  # the whole past is encoded again for each block


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig:
    """Log-mel front-end. Source: transformers `NemotronAsrStreamingFeatureExtractor`."""

    sample_rate_hz: int = 16_000
    """Sampling rate of the waveform; all time constants below are in its samples."""
    num_mel_bins: int = 80
    """Mel bins (Slaney scale and norm), 80 or 128 in published checkpoints."""
    n_fft: int = 512
    """FFT length, samples."""
    window_samples: int = 400
    """Symmetric Hann window, samples (25 ms)."""
    hop_samples: int = 160
    """Distance of two frames, samples (10 ms)."""
    preemphasis: float = 0.97
    """First-order pre-emphasis coefficient; 0 switches it off."""
    log_guard: float = 2.0**-24
    """Added before the logarithm; the value of a silent frame is log(log_guard)."""
    normalize: Literal["none", "per_feature"] = "none"
    """`per_feature` gives each mel bin zero mean and unit variance over all frames that are encoded together, as
    bidirectional checkpoints want it; it is not causal, so cache-aware encoders take `none` alone."""

    def __post_init__(self) -> None:
        """Check what the block-wise front-end relies on."""
        if not self.hop_samples <= self.window_samples <= self.n_fft:
            got = f"{self.hop_samples}, {self.window_samples}, {self.n_fft}"
            raise ConfigError(f"features: need hop_samples <= window_samples <= n_fft, got {got}")

    @property
    def step_s(self) -> float:
        """Seconds of audio in one encoder step (0.08)."""
        return SUBSAMPLING * self.hop_samples / self.sample_rate_hz


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """Cross-attention adapter between speech and the LLM (paper, section 3.1 and Table 4)."""

    num_layers: int = 2
    """Adapter layers X; the paper found nothing gained above 2."""
    width: int = 1024
    """Model width of the adapter; projections are added where it differs from the encoder's or the LLM's."""
    num_heads: int = 8
    """Heads of self- and cross-attention."""
    ffn_factor: int = 4
    """Feed-forward width over `width`: 4 by the paper's parameter counts, 1 in the authors' public code."""
    text_mixer: Literal["attention", "lstm", "none"] = "attention"
    """What mixes the text positions: causal self-attention in each layer, or (Table 4) two LSTM layers below one
    cross-attention layer, or nothing, which the paper tried and gave up."""
    prompt_mode: Literal["null_frame", "bypass"] = "null_frame"
    """Prompt tokens before the last one: attend to the null frame only, or skip the adapter (older variant)."""
    dropout: float = 0.0
    """Dropout in the adapter, training only."""

    def __post_init__(self) -> None:
        """Check sizes."""
        if min(self.num_layers, self.width, self.num_heads, self.ffn_factor) < 1:
            raise ConfigError("adapter: num_layers, width, num_heads and ffn_factor must be at least 1")
        if self.width % self.num_heads:
            raise ConfigError(f"adapter: width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.text_mixer == "lstm" and self.num_layers != 1:
            raise ConfigError("adapter: text_mixer 'lstm' has one cross-attention layer (Table 4); set num_layers: 1")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.num_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamingConfig:
    """Attention contexts of the cache-aware encoder, in encoder steps (80 ms)."""

    left_context: int = 70
    """Steps of the past an encoder step may attend to; the size of the attention cache."""
    lookaheads: tuple[int, ...] = (13, 6, 1, 0)
    """Right contexts a session may choose; a chunk has one step more."""
    default_lookahead: int = 13
    """Right context used when a session names none."""

    def __post_init__(self) -> None:
        """Check that each chunk divides the left context, which makes chunked and whole-utterance masks equal."""
        if self.left_context < 1:
            raise ConfigError(f"streaming: left_context must be at least 1, got {self.left_context}")
        if self.default_lookahead not in self.lookaheads:
            raise ConfigError(f"streaming: default_lookahead {self.default_lookahead} is not in {self.lookaheads}")
        for lookahead in self.lookaheads:
            if lookahead < 0 or self.left_context % (lookahead + 1):
                chunk = lookahead + 1
                raise ConfigError(f"streaming: chunk of {chunk} steps does not divide left_context {self.left_context}")

    @property
    def max_chunk_steps(self) -> int:
        """Encoder steps in the largest chunk."""
        return max(self.lookaheads) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BidirectionalConfig:
    """How a bidirectional encoder streams, in encoder steps (80 ms): all audio so far is encoded again for each block.

    Source: BESTOW-S-bidi of the paper, section 3.2; the bound is ours.
    """

    block: int = 4
    """Steps between two encodings; the default is wait-k's L, so that no token waits for more than it must see."""
    right_context: int = 13
    """Steps at the end of each encoding that are dropped, because they lack a future, until the audio has ended."""
    window: int = 375
    """Most steps encoded at once (30 s), right context included; older steps keep the values they had last."""

    def __post_init__(self) -> None:
        """Check that each window reaches back to the steps before it."""
        if self.block < 1 or self.right_context < 0:
            got = f"block={self.block}, right_context={self.right_context}"
            raise ConfigError(f"bidirectional: block must be at least 1 and right_context at least 0, got {got}")
        if self.window < (need := self.block + self.right_context):
            raise ConfigError(f"bidirectional: window {self.window} is below block + right_context, which are {need}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Default read/write policy of a session (paper, section 3.2)."""

    k: int = 6
    """Wait-k: pre-decision blocks heard before the first token."""
    l: int = 4  # noqa: E741 - the paper's letter
    """Pre-decision ratio: encoder steps read per written token."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k < 1 or self.l < 1:
            raise ConfigError(f"policy: k and l must be at least 1, got k={self.k}, l={self.l}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """When a session begins a new segment with fresh caches; what the model was trained on sets the limits."""

    pause_s: float = 2.0
    """Silence that ends a segment, seconds; longer than the pauses within utterances in training. 0 = never."""
    max_tokens: int = 0
    """Answer tokens that end a segment, 0 = what the LLM's context holds."""
    max_s: float = 0.0
    """Speech that ends a segment, seconds; as long as the utterances in training. 0 = what the speech memory holds.
    Questions without a text beside them are about all that was said: the model's own value does not hold for them."""
    context_tokens: int = 0
    """Most tokens of the segment before to repeat between prompt and answer; for models trained on such contexts."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.pause_s, self.max_tokens, self.max_s, self.context_tokens) < 0:
            raise ConfigError(f"segments: all of it must be at least 0, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """The LLM's chat format around one user turn, as plain text with the tokenizer's special tokens in it."""

    before: str = ""
    """Text before the instruction."""
    after: str = ""
    """Text after the instruction, up to where the answer begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that fixes a BESTOW model except its weights and its tokenizer."""

    encoder: dict[str, Any]
    """transformers config of the encoder, with its `model_type`."""
    llm: dict[str, Any]
    """transformers config of the decoder-only LLM, with its `model_type`."""
    adapter: AdapterConfig
    """The adapter's sizes and variants."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """The front-end."""
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    """Attention contexts of a cache-aware encoder."""
    bidirectional: BidirectionalConfig | None = None
    """How a bidirectional encoder streams, for which None means the defaults; always None with another encoder."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Default policy of a session."""
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    """When a new segment begins."""
    chat: ChatTemplate = field(default_factory=ChatTemplate)
    """Chat format of the LLM."""
    pairs: tuple[str, ...] = ()
    """Language pairs the model was trained for, such as `en-de`; `en-en` means transcription."""
    questions: tuple[str, ...] = ()
    """Languages of the speech that the model was trained to answer questions about, such as `en`; empty = none."""

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        for part, config in (("encoder", self.encoder), ("llm", self.llm)):
            if "model_type" not in config or "hidden_size" not in config:
                raise ConfigError(f"{part}: transformers config without model_type or hidden_size")
        if (factor := self.encoder.get("subsampling_factor", SUBSAMPLING)) != SUBSAMPLING:
            raise ConfigError(f"encoder: subsampling_factor {factor}; only {SUBSAMPLING} is supported")
        window = self.encoder.get("sliding_window", self.streaming.left_context + 1)
        if window != self.streaming.left_context + 1:  # transformers counts the step itself
            expected = self.streaming.left_context + 1
            raise ConfigError(f"encoder: sliding_window {window}, streaming.left_context needs {expected}")
        bins = self.encoder.get("num_mel_bins", self.features.num_mel_bins)
        if bins != self.features.num_mel_bins:
            raise ConfigError(f"features: {self.features.num_mel_bins} mel bins, but the encoder takes {bins}")
        self._check_kind()

    def _check_kind(self) -> None:
        """Settle what depends on whether the encoder is bidirectional."""
        kind = self.encoder["model_type"]
        if kind in BIDIRECTIONAL_ENCODERS:
            if self.bidirectional is None:
                object.__setattr__(self, "bidirectional", BidirectionalConfig())  # so that the file records it
        elif self.bidirectional is not None:
            raise ConfigError(f"bidirectional: encoder {kind} is not bidirectional; remove this field")
        if kind in CACHE_AWARE_ENCODERS and self.features.normalize != "none":
            got = f"normalize {self.features.normalize!r} needs all frames at once"
            raise ConfigError(f"features: {got}, but encoder {kind} hears them chunk by chunk; set normalize: none")

    @property
    def right_context(self) -> int:
        """Steps the encoder hears ahead in a session that names no look-ahead."""
        return self.streaming.default_lookahead if self.bidirectional is None else self.bidirectional.right_context

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read a decoded JSON object strictly.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        return decode(cls, values, "config")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file.

    Raises:
        ConfigError: the file is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
