"""The `data:` part of a recipe: where utterances and texts come from and what is made of them. Knows no torch.

Batches come from sources, mixed by weight (`training.corpora`): recordings as they are or joined on the fly, and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.prompts import parse_pair
from bestow_edge.training.recipe.stages import StageRecipe

SpokenTask = Literal["transcribe", "translate", "answer"]
WordTimes = Literal["none", "manifest", "estimated", "aligned"]
SPEECH_OBJECTIVES = frozenset({"ctc", "reading"})  # of stages; they have no use for texts


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRecipe:
    """How recordings of one language, words or sentences, are joined into longer utterances on the fly.

    Two hours of them are kept decoded in the memory of each process that reads. When each is heard is known; when each
    word of a sentence is, with `word_times: manifest` of the source.
    """

    vocabulary: tuple[str, ...] = ()
    """Use only recordings whose transcript has just these words, each of them as often; empty uses all."""
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
    """Which recordings are left out; what was dropped and why is logged once for each source."""

    min_s: float = 0.1
    """Shortest one, seconds."""
    max_s: float = 40.0
    """Longest one, seconds; no more than any stage's `batch_s`, but where recordings are joined."""
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
    """One corpus, or several alike: recordings (`manifests`, `shards`) or texts (`texts`)."""

    name: str
    """Its name in logs and messages."""
    manifests: tuple[str, ...] = ()
    """Manifests (.jsonl, .jsonl.gz), relative to the data directory."""
    shards: tuple[str, ...] = ()
    """Directories that `bestow-edge data shard` wrote, relative to the data directory."""
    texts: tuple[str, ...] = ()
    """Text files (.tsv, .jsonl, also gzipped), relative to the data directory; batches of these have no speech."""
    weight: float = 1.0
    """Share of the batches, relative to the other sources'; a stage may name other weights."""
    join: JoinRecipe | None = None
    """Join short recordings into longer utterances on the fly; left out = take them as they are."""
    tasks: tuple[SpokenTask, ...] = ("transcribe", "translate")
    """What is asked of speech, one drawn each time an utterance is used; `answer` asks the lines' questions. Texts:
    `[answer]` learns column answer after question and passage (language in column lang), the others mean nothing."""
    pairs: tuple[str, ...] = ()
    """Speech: language pairs asked for, one named twice twice as often; empty = all the model has. Texts: those to
    translate, empty = none."""
    columns: tuple[str, ...] = ()
    """Texts: columns (or JSON fields, or language codes) that are learned as plain text, next token by next token."""
    as_spoken: bool = False
    """Texts: those to translate and passages stand in the prompt as they would be transcribed, words in lower case and
    nothing else, so that an LLM learns to read what it will hear; rows with digits or symbols in them are dropped."""
    word_times: WordTimes = "none"
    """When words were heard: unknown, `word_times` of the manifest, estimated: words in proportion to their letters
    between the first and the last sound; or aligned: as the encoder heard them when a stage before had taught it labels
    (`ctc_weight`, `alignment_weight`), until then unknown. Pauses and the alignment, count and attention losses learn
    from utterances whose times are known, as those of joined recordings are."""
    window_s: tuple[float, ...] = ()
    """Shortest and longest window, seconds: a random part is taken of each longer utterance whose word times are known,
    another one each time, as speech is cut where it is streamed. For transcripts alone. Empty = all of them whole."""
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
        self._check_join(where)
        self._check_windows(where)
        if self.texts and not (self.pairs or self.columns or "answer" in self.tasks):
            raise ConfigError(
                f"{where}: texts need pairs to translate (such as en-de), columns to learn as plain text, or "
                "tasks: [answer]"
            )
        if spoken and (self.columns or self.as_spoken):
            raise ConfigError(f"{where}: columns are for texts, and so is as_spoken; remove what does not belong")
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

    def _check_join(self, where: str) -> None:
        if self.join is None:
            return
        if self.texts:
            raise ConfigError(f"{where}: join is for recordings; texts are not joined")
        if "answer" in self.tasks:
            raise ConfigError(f"{where}: task answer does not go with join; a question is about one recording")
        if self.word_times not in {"none", "manifest"}:
            raise ConfigError(f"{where}: word_times {self.word_times} does not go with join; choose manifest, or none")
        if self.shards_at_once or self.shard_cache:
            raise ConfigError(f"{where}: shards_at_once and shard_cache do not go with join; remove them")

    def _check_windows(self, where: str) -> None:
        if not self.window_s:
            return
        if len(self.window_s) != 2 or not 0 < self.window_s[0] < self.window_s[1]:
            raise ConfigError(f"{where}: window_s is two numbers, 0 < shortest < longest, got {list(self.window_s)}")
        if self.texts or self.join is not None or self.word_times not in {"manifest", "aligned"}:
            raise ConfigError(f"{where}: window_s needs recordings that are not joined, word_times manifest or aligned")
        if self.tasks != ("transcribe",):
            raise ConfigError(f"{where}: window_s is for tasks: [transcribe]; no other text is known of a part")

    def timed(self, *, heard: bool) -> bool:
        """Say whether word times are known to a stage; `heard`: a stage before has taught the encoder labels."""
        if self.word_times == "aligned":
            return heard
        return self.join is not None or self.word_times != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRecipe:
    """Where training data comes from and what is made of it."""

    sources: tuple[SourceRecipe, ...]
    """What batches are made of; each batch comes from one of them."""
    dev_sources: tuple[SourceRecipe, ...]
    """What the loss during training is reported on, without augmentation."""
    buckets: int = 30
    """Length classes of a source; a batch is drawn from one, so that little of it is padding. 1 = no classes."""
    filter: FilterRecipe = field(default_factory=FilterRecipe)
    """Which recordings are left out."""
    readers: int = 1
    """Processes that read: process i mod `readers` reads batch i. Shards read a few at a time are divided among them,
    and the batches of a turn come from one source, so that no process waits for another's longer one. Set it to the
    number of training processes; the order of batches depends on it, not on how many processes there are."""
    index_cache: str = ""
    """Directory that keeps what was read of the sources, relative to the data directory: millions of lines are read
    once then, not at every start of every process. Empty = none."""
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    """Changes made to the speech of `sources`, joined or not."""

    def __post_init__(self) -> None:
        """Check that there is data."""
        for kind, sources in (("sources", self.sources), ("dev_sources", self.dev_sources)):
            if not sources:
                raise ConfigError(f"data: {kind} is empty; give at least one")
            names = [source.name for source in sources]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"data: two sources are named {repeated[0]}; give each its own name")
        if self.buckets < 1 or self.readers < 1:
            raise ConfigError(f"data: buckets and readers must be at least 1, got {self.buckets} and {self.readers}")


def drawn_sources(data: DataRecipe, stage: StageRecipe, *, dev: bool = False) -> dict[str, float]:
    """Return the names and weights of the sources that a stage draws from.

    Without names of its own a stage draws from all sources, but `ctc` and `reading` from speech alone. The dev loss is
    that of all `dev_sources`, likewise.
    """
    if stage.sources and not dev:
        return dict(stage.sources)
    sources = data.dev_sources if dev else data.sources
    no_texts = stage.objective in SPEECH_OBJECTIVES
    return {source.name: source.weight for source in sources if not (source.texts and no_texts)}


def check_pairs(data: DataRecipe, pairs: Sequence[str]) -> None:
    """Check that sources of speech ask for the model's language pairs alone.

    Raises:
        ConfigError: one asks for another.
    """
    for source in (*data.sources, *data.dev_sources):
        if not source.texts and (unknown := [pair for pair in source.pairs if pair not in pairs]):
            raise ConfigError(f"source {source.name}: pair {unknown[0]} is not one of the model's ({', '.join(pairs)})")


def check_stages(data: DataRecipe, stages: Sequence[StageRecipe]) -> None:
    """Check that the sources hold what the stages train on.

    Raises:
        ConfigError: a stage names an unknown source, needs speech where all is text, word times that none of its
            sources has, or a larger batch for the longest utterances.
    """
    if late := [source.name for source in data.dev_sources if source.word_times == "aligned"]:
        raise ConfigError(f"dev source {late[0]}: word_times aligned is for training; choose manifest or estimated")
    heard = False
    for stage in stages:
        where = f"stage {stage.name}"
        _check_names(data, stage)
        names = drawn_sources(data, stage)
        spoken = [source for source in data.sources if source.name in names and not source.texts]
        dev_spoken = [source for source in data.dev_sources if not source.texts]
        if stage.objective in SPEECH_OBJECTIVES and not (spoken and dev_spoken):
            empty = "dev_sources" if spoken else "sources"
            raise ConfigError(f"{where}: objective {stage.objective} needs speech; its data.{empty} are all texts")
        if not dev_spoken and stage.best in {"wer", "bleu"}:
            raise ConfigError(f"{where}: best: {stage.best} needs speech; data.dev_sources are all texts")
        _check_times(stage, spoken, heard=heard)
        heard = heard or teaches_labels(stage)
        whole = any(source.join is None for source in spoken + dev_spoken)
        if whole and stage.batch_s < data.filter.max_s:
            limit = f"data.filter.max_s lets utterances of {data.filter.max_s:g} s in"
            raise ConfigError(f"{where}: batch_s is {stage.batch_s:g}, but {limit}; change one of the two")


def _check_names(data: DataRecipe, stage: StageRecipe) -> None:
    known = {source.name: source for source in data.sources}
    for name, weight in stage.sources.items():
        if name not in known:
            raise ConfigError(f"stage {stage.name}: no source {name!r}; data.sources has {', '.join(known)}")
        if not weight > 0:
            raise ConfigError(f"stage {stage.name}: source {name} has weight {weight:g}; expected more than 0")
        if known[name].texts and stage.objective in SPEECH_OBJECTIVES:
            why = f"objective {stage.objective} has no use for {name}, which is texts"
            raise ConfigError(f"stage {stage.name}: {why}; remove it")


def teaches_labels(stage: StageRecipe) -> bool:
    """Say whether a stage teaches the encoder labels, after which recordings can be aligned with their words."""
    return bool(stage.ctc_weight or stage.alignment_weight)


def _check_times(stage: StageRecipe, spoken: Sequence[SourceRecipe], *, heard: bool) -> None:
    """Check that a loss on word times finds some; with nothing else to learn, in every source."""
    field_name = time_field(stage)
    untimed = [source.name for source in spoken if not source.timed(heard=heard)]
    alone = stage.objective == "ctc" and not stage.ctc_weight
    if field_name and untimed and (alone or len(untimed) == len(spoken)):
        choices = "word_times: manifest (the lines have word_times) or estimated; aligned needs a stage before"
        raise ConfigError(f"stage {stage.name}: {field_name} needs word times; give source {untimed[0]} {choices}")


def needs_transcripts(data: DataRecipe, source: SourceRecipe, stages: Sequence[StageRecipe]) -> bool:
    """Say whether an utterance without a transcript is of no use: to be joined, or to a stage that learns it."""
    if source.join is not None:
        return True
    learn = [stage for stage in stages if stage.ctc_weight or stage.objective == "ctc"]
    return any(source in data.dev_sources or source.name in drawn_sources(data, stage) for stage in learn)


def time_field(stage: StageRecipe) -> str | None:
    """Return the first field of a stage that asks for word times."""
    names = ("pauses", "alignment_weight", "count_weight", "attention_weight")
    return next((name for name in names if getattr(stage, name)), None)
