"""The `data:` part of a recipe: where utterances and texts come from and what is made of them. Knows no torch.

Two ways to make batches: `train` joins short recordings on the fly (`training.compose`), `sources` takes utterances and
texts as they are, from manifests, shards and text files, mixed by weight (`training.corpora`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bestow_edge.errors import ConfigError
from bestow_edge.prompts import parse_pair

SpokenTask = Literal["transcribe", "translate", "answer"]
WordTimes = Literal["none", "manifest", "estimated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRecipe:
    """How recordings of one language are joined into longer utterances on the fly."""

    mixed_speakers: float = 0.0
    """Share of utterances whose recordings come from several speakers of one corpus."""
    max_gap_s: float = 0.3
    """Usual longest pause between recordings, seconds."""
    long_pauses: float = 0.1
    """Share of pauses that are drawn up to 1.5 s long instead."""
    trim: float = 0.5
    """Share of utterances whose recordings lose their silent edges before they are joined."""
    noise_only: float = 0.0
    """Share of utterances without any speech, whose answer is empty."""
    distractors: float = 0.0
    """Chance of one recording with words outside `vocabulary` in an utterance; the answer leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentRecipe:
    """Chances and ranges of the changes made to each training utterance."""

    speed: float = 0.0
    """Largest change of playing speed (pitch and formants move along), 0.15 = from 0.85 to 1.15."""
    warp: float = 0.0
    """Largest change of the frequency axis alone, as of longer and shorter vocal tracts, 0.1 = from 0.9 to 1.1."""
    narrow: float = 0.0
    """Chance of a sampling rate of 8 kHz: nothing is left above 4 kHz."""
    room: float = 0.0
    """Chance of a room's echo (decaying noise, RT60 0.08 to 0.6 s)."""
    filter: float = 0.0
    """Chance of a random band limit and tilt, as of other microphones and telephones."""
    noise: float = 0.0
    """Chance of added noise at 10 to 35 dB below the speech."""
    noise_files: str = ""
    """Directory of noise recordings under the data directory; without it noise is coloured noise alone."""
    gain_db: float = 0.0
    """Level is moved at random by up to this many decibels down, and a third of it up."""
    mask_bins: int = 0
    """SpecAugment: widest of two masks over mel bins."""
    mask_frames: int = 0
    """SpecAugment: widest of two masks over frames (10 ms)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterRecipe:
    """Which utterances of `sources` are left out; what was dropped and why is logged once for each source."""

    min_s: float = 0.1
    """Shortest utterance, seconds."""
    max_s: float = 40.0
    """Longest utterance, seconds; no more than any stage's `batch_s`."""
    min_words: int = 0
    """Fewest words of the text."""
    min_chars_per_s: float = 0.0
    """Fewest characters of the text a second; catches texts that lack words."""
    max_chars_per_s: float = 0.0
    """Most characters of the text a second; catches texts of other recordings. 0 = any number."""
    max_tokens_per_s: float = 0.0
    """Most tokens of the transcript a second; wait-k writes 1 / (L * 0.08 s) of them. 0 = any number."""
    languages: tuple[str, ...] = ()
    """Languages of the speech that are kept; empty = all."""
    dedup: Literal["none", "recording", "text"] = "none"
    """Drop utterances whose recording (file and offset), or whose text, occurred before in the source."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.min_s < self.max_s:
            raise ConfigError(f"filter: need 0 <= min_s < max_s, got {self.min_s} and {self.max_s}")
        if min(self.min_words, self.min_chars_per_s, self.max_chars_per_s, self.max_tokens_per_s) < 0:
            raise ConfigError(
                "filter: min_words and the numbers of characters and tokens a second must not be negative"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecipe:
    """One corpus, or several alike: utterances (`manifests`, `shards`) or texts (`texts`)."""

    name: str
    """Its name in logs and messages."""
    manifests: tuple[str, ...] = ()
    """Manifests (.jsonl, .jsonl.gz), relative to the data directory."""
    shards: tuple[str, ...] = ()
    """Directories that `bestow-edge data shard` wrote, relative to the data directory."""
    texts: tuple[str, ...] = ()
    """Text files (.tsv, .jsonl, also gzipped), relative to the data directory; batches of these have no speech."""
    weight: float = 1.0
    """Share of the batches, relative to the other sources'."""
    tasks: tuple[SpokenTask, ...] = ("transcribe", "translate")
    """What is asked of speech; `answer` asks the lines' questions. One is drawn each time an utterance is used."""
    pairs: tuple[str, ...] = ()
    """Speech: language pairs asked for, empty = all of the model's. Texts: written texts to translate, empty = none."""
    columns: tuple[str, ...] = ()
    """Texts: columns (or JSON fields, or language codes) that are learned as plain text, next token by next token."""
    word_times: WordTimes = "none"
    """When words were heard: unknown, `word_times` of the manifest, or estimated: words in proportion to their
    letters between the first and the last sound. Pauses and the alignment, count and attention losses need times."""
    shards_at_once: int = 0
    """Shards shuffled together; the others wait, so reading is nearly sequential. 0 = all, reads anywhere."""
    shard_cache: str = ""
    """Local directory that shards are copied to whole before they are read; empty = read them where they are."""
    batch_tokens: int = 8192
    """Texts: tokens in a batch, padding included."""
    max_tokens: int = 1024
    """Texts: most tokens of a row. A longer plain text gives a random part of itself each time, a pair is dropped."""
    max_bad: int = 100
    """Recordings that may turn out unreadable during training, each skipped and logged, before it is an error; counted
    by each process that reads."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        where = f"source {self.name}"
        spoken = bool(self.manifests or self.shards)
        if spoken == bool(self.texts):
            raise ConfigError(f"{where}: give manifests and shards, or texts; a batch is all speech or all text")
        if self.texts and not (self.pairs or self.columns):
            raise ConfigError(
                f"{where}: texts need pairs to translate (such as en-de) or columns to learn as plain text"
            )
        if spoken and self.columns:
            raise ConfigError(f"{where}: columns are for texts; a manifest's fields have names of their own")
        if not self.weight > 0 or not self.tasks or self.max_bad < 0 or self.shards_at_once < 0:
            needed = "weight above 0, at least one task, max_bad and shards_at_once of at least 0"
            raise ConfigError(f"{where}: expected {needed}")
        if not 2 <= self.max_tokens <= self.batch_tokens:
            got = f"{self.max_tokens} and {self.batch_tokens}"
            raise ConfigError(f"{where}: need 2 <= max_tokens <= batch_tokens, got {got}")
        if (self.shards_at_once or self.shard_cache) and (self.manifests or not self.shards):
            raise ConfigError(f"{where}: shards_at_once and shard_cache are for shards alone")
        for pair in map(parse_pair, self.pairs):
            if self.texts and pair.task == "transcribe":
                raise ConfigError(f"{where}: pair {pair} of texts has one language; use columns: [{pair.source}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRecipe:
    """Where training data comes from and what is made of it."""

    train: tuple[str, ...] = ()
    """Training manifests whose recordings are joined on the fly, relative to the data directory."""
    dev: tuple[str, ...] = ()
    """Manifests whose loss is reported during training, with `train`."""
    sources: tuple[SourceRecipe, ...] = ()
    """Corpora whose utterances and texts are used as they are; instead of `train`."""
    dev_sources: tuple[SourceRecipe, ...] = ()
    """Corpora whose loss is reported during training, with `sources`."""
    buckets: int = 30
    """Length classes of `sources`; a batch is drawn from one, so that little of it is padding. 1 = no classes."""
    filter: FilterRecipe = field(default_factory=FilterRecipe)
    """What is left out of `sources`."""
    readers: int = 1
    """Processes that read: process i mod `readers` reads batch i. Shards read a few at a time are divided among them,
    and the batches of a turn come from one source, so that no process waits for another's longer one. Set it to the
    number of training processes; the order of batches depends on it, not on how many processes there are."""
    index_cache: str = ""
    """Directory that keeps what was read of `sources`, relative to the data directory: millions of lines are then read
    once, not at every start of every process. Empty = none."""
    vocabulary: tuple[str, ...] = ()
    """With `train`: use only utterances whose transcript has just these words; empty uses all."""
    join: JoinRecipe = field(default_factory=JoinRecipe)
    """With `train`: joining of recordings."""
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    """Changes made to training utterances."""

    def __post_init__(self) -> None:
        """Check that there is one kind of data."""
        if bool(self.train) == bool(self.sources):
            raise ConfigError("data: give train (recordings to join) or sources (utterances as they are), not both")
        if bool(self.train) != bool(self.dev) or bool(self.sources) != bool(self.dev_sources):
            raise ConfigError("data: train goes with dev, and sources go with dev_sources")
        for sources in (self.sources, self.dev_sources):
            names = [source.name for source in sources]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"data: two sources are named {repeated[0]}; give each its own name")
        if self.buckets < 1 or self.readers < 1:
            raise ConfigError(f"data: buckets and readers must be at least 1, got {self.buckets} and {self.readers}")


class StageNeeds(Protocol):
    """The fields of a stage that say something about its data."""

    @property
    def name(self) -> str:
        """Name of the stage."""

    @property
    def objective(self) -> str:
        """What the stage teaches."""

    @property
    def best(self) -> str:
        """Metric by which the best weights are kept."""

    @property
    def batch_s(self) -> float:
        """Seconds of audio in a batch."""

    @property
    def pauses(self) -> float:
        """Share of pauses."""

    @property
    def ctc_weight(self) -> float:
        """Weight of CTC."""

    @property
    def alignment_weight(self) -> float:
        """Weight of the alignment loss."""

    @property
    def count_weight(self) -> float:
        """Weight of the count loss."""

    @property
    def attention_weight(self) -> float:
        """Weight of the attention loss."""

    @property
    def augment(self) -> tuple[float, ...]:
        """Strength of the augmentation, first and last step."""


def check_pairs(data: DataRecipe, pairs: Sequence[str]) -> None:
    """Check that sources of speech ask for the model's language pairs alone.

    Raises:
        ConfigError: one asks for another.
    """
    for source in (*data.sources, *data.dev_sources):
        if not source.texts and (unknown := [pair for pair in source.pairs if pair not in pairs]):
            raise ConfigError(f"source {source.name}: pair {unknown[0]} is not one of the model's ({', '.join(pairs)})")


def check_stages(data: DataRecipe, stages: Sequence[StageNeeds]) -> None:
    """Check that the sources hold what the stages train on.

    Raises:
        ConfigError: a stage needs speech where all is text, word times that a source lacks, or a larger batch for the
            longest utterances.
    """
    heard, dev_heard = ([source for source in some if not source.texts] for some in (data.sources, data.dev_sources))
    spoken = heard + dev_heard
    for stage in stages:
        if data.sources and not heard and stage.objective == "ctc":
            raise ConfigError(f"stage {stage.name}: objective ctc needs speech; data.sources are all texts")
        if data.sources and not dev_heard and stage.best in {"wer", "bleu"}:
            raise ConfigError(f"stage {stage.name}: best: {stage.best} needs speech; data.dev_sources are all texts")
        for source in spoken:
            if (field_name := time_field(stage)) and source.word_times == "none":
                choices = "word_times: manifest (the lines have word_times) or estimated"
                raise ConfigError(
                    f"stage {stage.name}: {field_name} needs word times; give source {source.name} {choices}"
                )
        if spoken and stage.batch_s < data.filter.max_s:
            limit = f"data.filter.max_s lets utterances of {data.filter.max_s:g} s in"
            raise ConfigError(f"stage {stage.name}: batch_s is {stage.batch_s:g}, but {limit}; change one of the two")


def needs_transcripts(stages: Sequence[StageNeeds]) -> bool:
    """Say whether a stage has a loss on what is said, without which an utterance is of no use to it."""
    return any(stage.ctc_weight or time_field(stage) for stage in stages)


def time_field(stage: StageNeeds) -> str | None:
    """Return the first field of a stage that asks for word times."""
    names = ("pauses", "alignment_weight", "count_weight", "attention_weight")
    return next((name for name in names if getattr(stage, name)), None)
