"""Model configuration shared by training, export and runtime. Plain Python.

A checkpoint's `config.json` and a bundle's `bundle.json` hold a `ModelConfig`. Reading is strict: an unknown key is an
error that names the known ones, so that a misspelt field never silently takes its default.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.networks import check_network
from bestow_edge.core.ranges import check_ranges

MOST = 1_000_000  # steps of a policy: 22 hours
MOST_BIAS = 100.0  # of a token, nats
MOST_SILENCE_S = 5.0
OVERSHOOT_STEPS = 64  # a segment ends with the chunk that reaches its limit
PolicyName = Literal["wait-k", "offline", "align-att", "local-agreement", "every-step"]
"""Names of the read/write policies in files and on the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig:
    """Log-mel front-end. The defaults are those of transformers' `NemotronAsrStreamingFeatureExtractor`.

    Whisper's differs in `n_fft`, `preemphasis`, `window`, `start`, `log_guard`, `guard` and `normalize`.
    """

    sample_rate_hz: int = 16_000
    """Sampling rate of the waveform; all time constants below are in its samples."""
    num_mel_bins: int = 80
    """Mel bins (Slaney scale and norm), 80 or 128 in published checkpoints."""
    n_fft: int = 512
    """FFT length, samples."""
    window_samples: int = 400
    """Hann window, samples (25 ms)."""
    hop_samples: int = 160
    """Distance of two frames, samples (10 ms)."""
    preemphasis: float = 0.97
    """First-order pre-emphasis coefficient; 0 switches it off."""
    window: Literal["symmetric", "periodic"] = "symmetric"
    """Form of the Hann window: divided into one interval less than it has samples, or into as many."""
    start: Literal["zeros", "mirrored"] = "zeros"
    """Samples that the first windows see before the waveform: silence, or the first samples backwards."""
    end: Literal["zeros", "mirrored"] = "zeros"
    """Samples that the last windows see behind the waveform: silence, or the last samples backwards."""
    log_guard: float = 2.0**-24
    """Guard of the logarithm; the value of a silent frame is log(log_guard)."""
    guard: Literal["added", "least"] = "added"
    """The guard is added to each mel bin, or the least value of one."""
    constants: Literal["float32", "bfloat16"] = "float32"
    """Type that the mel filters and the window are rounded to; some NeMo checkpoints hold them in bfloat16."""
    normalize: Literal["none", "per_feature", "peak"] = "none"
    """Over all frames that are encoded together: `per_feature` gives each mel bin zero mean and unit variance, as
    bidirectional FastConformers want it; `peak` raises bins to 80 dB below the loudest one and takes (log10 + 4) / 4,
    as Whisper wants it. Neither is causal, so cache-aware encoders take `none` alone."""

    def __post_init__(self) -> None:
        """Check what the block-wise front-end relies on."""
        if not self.hop_samples <= self.window_samples <= self.n_fft:
            got = f"{self.hop_samples}, {self.window_samples}, {self.n_fft}"
            raise ConfigError(f"features: need hop_samples <= window_samples <= n_fft, got {got}")
        if self.hop_samples < 1 or self.n_fft > 2**16 or not 1 <= self.num_mel_bins <= self.n_fft // 2 + 1:
            got = f"{self.hop_samples}, {self.n_fft}, {self.num_mel_bins}"
            expected = "hop_samples of at least 1, n_fft of at most 65536 and num_mel_bins of at most n_fft / 2 + 1"
            raise ConfigError(f"features: need {expected}, got {got}")
        if self.sample_rate_hz < 1 or not 0 < self.log_guard < math.inf or not abs(self.preemphasis) < math.inf:
            got = f"{self.sample_rate_hz}, {self.log_guard}, {self.preemphasis}"
            expected = "sample_rate_hz and log_guard above 0, log_guard and preemphasis finite"
            raise ConfigError(f"features: need {expected}, got {got}")
        check_ranges("features", self, sample_rate_hz=(1, 1_000_000), preemphasis=(-1, 1), log_guard=(0, 1))

    @property
    def frame_s(self) -> float:
        """Seconds of audio from one frame to the next (0.01)."""
        return self.hop_samples / self.sample_rate_hz


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(ABC):
    """Fields of every kind of encoder. `bestow_edge.core.encoders.ENCODERS` lists the kinds; lengths are in steps."""

    kind: str
    """Name of the kind in `ENCODERS`."""
    network: dict[str, Any]
    """transformers config of the encoder, with its `model_type`."""

    model_types: ClassVar[tuple[str, ...]]
    """transformers model types that this kind runs."""
    frames_per_step: ClassVar[float]
    """Mel frames in one encoder step."""
    run_multiple: ClassVar[int]
    """A run of the graph takes a multiple of so many mel frames."""

    def __post_init__(self) -> None:
        """Check that the network is one of this kind."""
        check_network(self.network, "encoder")
        if (model_type := self.network["model_type"]) not in self.model_types:
            known = ", ".join(self.model_types)
            raise ConfigError(f"encoder: model_type {model_type!r} is not one of kind {self.kind}: {known}")
        if (factor := self.network.get("subsampling_factor", self.frames_per_step)) != self.frames_per_step:
            raise ConfigError(f"encoder: subsampling_factor {factor}; only {self.frames_per_step} is supported")

    @classmethod
    def kinds(cls) -> Mapping[str, type[EncoderConfig]]:
        """Return the config of each kind by its name, for the decoder."""
        from bestow_edge.core.encoders import ENCODERS

        return {name: kind.config for name, kind in ENCODERS.items()}

    @property
    def width(self) -> int:
        """Width of a step as the connector gets it."""
        return int(self.network["hidden_size"]) * self.positions_per_step

    @property
    @abstractmethod
    def right_contexts(self) -> tuple[int, ...]:
        """Steps of the future that a session may let the encoder hear."""

    @property
    @abstractmethod
    def default_right_context(self) -> int:
        """Right context of a session that names none."""

    @property
    @abstractmethod
    def run_frames(self) -> tuple[int, ...]:
        """Mel frames of whole runs of the graph, ascending; a run at the end of the audio may have fewer."""

    @abstractmethod
    def num_steps(self, num_frames: int) -> int:
        """Return the steps of an utterance of some mel frames."""

    @property
    def whole_steps(self) -> int:
        """Most steps of a segment of which one encoding gives all; encoders that encode a step once have no limit."""
        return MOST

    @property
    def positions_per_step(self) -> int:
        """Positions of the network that are stacked to one step."""
        return 1

    def chunk_steps(self, right_context: int) -> int:  # noqa: ARG002 - for kinds that encode chunks
        """Return the steps that are encoded together and never again; 0 for all of the audio so far."""
        return 0

    def for_unit(self, unit: int) -> EncoderConfig:  # noqa: ARG002 - for kinds that encode chunks
        """Return the config whose chunks have whole units of so many steps, as `ConnectorConfig.unit` wants it."""
        return self

    def for_policy(self, l: int) -> EncoderConfig:  # noqa: ARG002, E741 - see `windowed`; the paper's letter
        """Return the config that suits a policy which reads `l` steps for a token."""
        return self

    def settled_network(self, features: FeatureConfig) -> dict[str, Any]:
        """Return the network's config with the fields that follow from the front-end and from this config."""
        return self.network | {"num_mel_bins": features.num_mel_bins}

    def check_features(self, features: FeatureConfig) -> None:
        """Check that the front-end fits the network.

        Raises:
            ConfigError: if it does not fit.
        """
        bins = self.network.get("num_mel_bins", features.num_mel_bins)
        if bins != features.num_mel_bins:
            raise ConfigError(f"features: {features.num_mel_bins} mel bins, but the encoder takes {bins}")

    @abstractmethod
    def describe(self) -> str:
        """Return how it streams, in words for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorConfig(ABC):
    """Fields of every kind of connector. `bestow_edge.core.connectors.CONNECTORS` lists the kinds."""

    kind: str
    """Name of the kind in `CONNECTORS`."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[ConnectorConfig]]:
        """Return the config of each kind by its name, for the decoder."""
        from bestow_edge.core.connectors import CONNECTORS

        return {name: kind.config for name, kind in CONNECTORS.items()}

    def for_llm(self, llm: Mapping[str, Any]) -> ConnectorConfig:  # noqa: ARG002 - for kinds that depend on it
        """Return the config that suits an LLM."""
        return self

    def check_policy(self, policy: PolicyConfig) -> None:  # noqa: B027 - for kinds that are trained for one policy
        """Check that the default policy is one that it was trained for.

        Raises:
            ConfigError: if it is not.
        """

    def check_llm(self, llm: Mapping[str, Any]) -> None:  # noqa: B027 - for kinds that name tokens or layers of it
        """Check that the tokens, layers and heads that it names are the LLM's.

        Raises:
            ConfigError: if one is not.
        """

    @property
    def mark(self) -> str:
        """Text of the prompt's token in whose place speech stands; empty for kinds without such a token."""
        return ""

    @property
    def mark_id(self) -> int | None:
        """Id of that token; None without one, or if it is not yet known."""
        return None

    def with_mark(self, token_id: int) -> ConnectorConfig:  # noqa: ARG002 - for kinds that have a mark
        """Return the config with the id of that token."""
        return self

    @property
    def max_text_tokens(self) -> int | None:
        """Most tokens of a text, prompt included; None for as many as the LLM takes."""
        return None

    @property
    def detects(self) -> tuple[str, ...]:
        """Languages of speech that the model detects; none unless the kind says so."""
        return ()

    @property
    def detection_steps(self) -> int:
        """Steps from the begin of the first word on that are heard before a detected language stays."""
        return 0

    @property
    def sees_all(self) -> bool:
        """Whether every token sees all of the newest encoding, which replaces the one before."""
        return False

    @property
    def unit(self) -> int:
        """Encoder steps that become positions of the LLM's sequence together; chunks and blocks hold whole units."""
        return 1

    def llm_positions(self, steps: int) -> int:  # noqa: ARG002 - for kinds whose speech enters the LLM's sequence
        """Return the positions of the LLM's sequence that speech of some steps takes."""
        return 0

    @abstractmethod
    def describe(self) -> str:
        """Return its sizes, in words for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Default read/write policy of a session (paper, section 3.2)."""

    name: PolicyName = "wait-k"
    """Name of the policy."""
    k: int = 6
    """Wait-k: pre-decision blocks heard before the first token."""
    threshold: int = 4
    """Align-att: encoder steps between the attention's peak and the newest step."""
    pool: int = 5
    """Align-att: steps averaged before the peak is looked for."""
    least_share: float = 0.0
    """Align-att: least share of the attention on the visible steps."""
    l: int = 4  # noqa: E741 - the paper's letter
    """Pre-decision ratio: encoder steps read per written token, or before a token is tried again, or in a turn."""
    delay: int = 4
    """Every-step: encoder steps from the end of a word to its text, one of those of the connector."""
    blank_bias: float = 0.0
    """Every-step: added to the log-probability of BLANK, nats."""
    most_tokens: int = 8
    """Every-step: most tokens of a turn; the rest of the text waits for the next one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k < 1 or self.l < 1 or self.threshold < 0:
            got = f"k={self.k}, l={self.l}, threshold={self.threshold}"
            raise ConfigError(f"policy: k and l must be at least 1 and threshold at least 0, got {got}")
        check_ranges("policy", self, k=(1, MOST), l=(1, MOST), threshold=(0, MOST), pool=(1, MOST), least_share=(0, 1))
        check_ranges("policy", self, delay=(0, MOST), blank_bias=(-MOST_BIAS, MOST_BIAS), most_tokens=(1, MOST))


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """When a session begins a new segment with fresh caches; the limits follow its training."""

    pause_s: float = 2.0
    """Silence that ends a segment, seconds; longer than the pauses within utterances in training. 0 = never."""
    max_tokens: int = 0
    """Answer tokens that end a segment, 0 = what the LLM's context holds."""
    max_s: float = 0.0
    """Speech that ends a segment, seconds; as long as the utterances in training. 0 = what the speech memory holds.
    Questions without a text beside them are about the whole recording: they ignore the model's own value."""
    context_tokens: int = 0
    """Most tokens of the segment before to repeat, see `ChatTemplate.previous`; for models trained on such contexts."""
    silence_s: tuple[float, float] = (0.0, 0.0)
    """Silence that a session puts before and behind the audio, seconds, for models that leave out or repeat a word
    without silence around it. Times of texts do not count it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.pause_s, self.max_tokens, self.max_s, self.context_tokens) < 0:
            raise ConfigError(f"segments: all of it must be at least 0, got {self}")
        longest_s, tokens = (0, 1e6), (0, 2**31 - 1)
        check_ranges("segments", self, pause_s=longest_s, max_s=longest_s, max_tokens=tokens, context_tokens=tokens)
        if len(self.silence_s) != 2 or not all(0 <= seconds <= MOST_SILENCE_S for seconds in self.silence_s):
            expected = f"expected two numbers from 0 to {MOST_SILENCE_S:g}"
            raise ConfigError(f"segments: silence_s is {list(self.silence_s)}; {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """The LLM's chat format around one user turn, as plain text with the tokenizer's special tokens in it."""

    before: str = ""
    """Text before the instruction."""
    instruction: str | None = None
    """The instruction of a language pair, in which {source} and {target} stand for language codes, {source_name} and
    {target_name} for their English names, and {task} for `transcribe` or `translate`; None for an English sentence."""
    after: str = ""
    """Text after the instruction, up to where the answer begins."""
    previous: str = ""
    """Text before repeated tokens of the segment before, which then stand before the prompt; empty if they stand
    between prompt and answer."""
    before_hotwords: str = ""
    """Begin of `before` that hotwords stand behind; empty if the prompt takes none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that fixes a BESTOW model except its weights and its tokenizer."""

    encoder: EncoderConfig
    """The speech encoder and how it streams."""
    connector: ConnectorConfig
    """Where speech enters the LLM."""
    llm: dict[str, Any]
    """transformers config of the decoder-only LLM, with its `model_type`."""
    rotary: Literal["float32", "bfloat16"] = "float32"
    """Type that the frequencies of the LLM's rotary embedding are rounded to: bfloat16 if all of it was trained so."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """The front-end."""
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
        check_network(self.llm, "llm")
        self.encoder.check_features(self.features)
        self.connector.check_llm(self.llm)
        self.connector.check_policy(self.policy)

    @property
    def step_s(self) -> float:
        """Seconds of audio in one encoder step (0.08)."""
        return self.encoder.frames_per_step * self.features.hop_samples / self.features.sample_rate_hz

    @property
    def max_text_tokens(self) -> int:
        """Most tokens of a text, prompt included."""
        most = int(self.llm["max_position_embeddings"])
        return min(most, self.connector.max_text_tokens or most)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read a decoded JSON object strictly.

        Raises:
            ConfigError: if a key is unknown or missing, or a value has the wrong type.
        """
        return decode(cls, values, "config")
