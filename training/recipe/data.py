"""The `data:` part of a recipe: sources of utterances and texts, filters and augmentation. No torch.

A batch comes from one source (`training.data.corpora`): recordings, used as they are or joined on the fly, or texts.
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
SPEECH_OBJECTIVES = frozenset({"ctc", "reading"})  # objectives of stages that cannot use texts


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRecipe:
    """How recordings of one language, words or sentences, are joined into longer utterances on the fly.

    Each reading process keeps two hours of decoded recordings in memory. The times of the recordings within the
    utterance are known; those of the words of a sentence are known with `word_times: manifest` of the source.
    """

    vocabulary: tuple[str, ...] = ()
    """Use only recordings whose transcript consists of these words, all words equally often. Empty = all recordings."""
    mixed_speakers: float = 0.0
    """Share of utterances whose recordings come from several speakers of one corpus."""
    max_gap_s: float = 0.3
    """Longest ordinary pause between recordings, seconds."""
    long_pauses: float = 0.1
    """Share of pauses that are longer, up to 1.5 s."""
    trim: float = 0.5
    """Share of utterances whose recordings are trimmed of silence before they are joined."""
    noise_only: float = 0.0
    """Share of utterances without speech and with an empty answer."""
    distractors: float = 0.0
    """Chance that an utterance has one recording with words outside `vocabulary`, which is not in the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentRecipe:
    """Chances and ranges of the augmentation of training utterances."""

    speed: float = 0.0
    """Largest change of playing speed, and of pitch and formants with it; 0.15 = from 0.85 to 1.15."""
    warp: float = 0.0
    """Largest change of the frequency axis, as by longer and shorter vocal tracts; 0.1 = from 0.9 to 1.1."""
    narrow: float = 0.0
    """Chance of resampling to 8 kHz and back, which removes everything above 4 kHz."""
    room: float = 0.0
    """Chance of a room's echo (decaying noise, RT60 0.08 to 0.6 s)."""
    filter: float = 0.0
    """Chance of a random band limit and tilt, as by other microphones and telephones."""
    noise: float = 0.0
    """Chance of added noise at 10 to 35 dB below the speech."""
    noise_files: str = ""
    """Directory of noise recordings, relative to the data directory. Empty = synthetic noise only."""
    gain_db: float = 0.0
    """Largest random decrease of the level, dB. The largest increase is a third of it."""
    mask_bins: int = 0
    """SpecAugment: widest of two masks over mel bins."""
    mask_frames: int = 0
    """SpecAugment: widest of two masks over frames (10 ms)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterRecipe:
    """Filters of recordings. The number of dropped ones and the reasons are logged for each source."""

    min_s: float = 0.1
    """Shortest recording, seconds."""
    max_s: float = 40.0
    """Longest recording, seconds. No more than any stage's `batch_s`, except where recordings are joined."""
    min_words: int = 0
    """Fewest words of the text."""
    min_chars_per_s: float = 0.0
    """Fewest characters of the text a second. Finds texts that lack words."""
    max_chars_per_s: float = 0.0
    """Most characters of the text a second. Finds texts of other recordings. 0 = any number."""
    max_tokens_per_s: float = 0.0
    """Most tokens of the transcript a second; wait-k writes 1 / (L * 0.08 s) of them. 0 = any number."""
    languages: tuple[str, ...] = ()
    """Languages of the speech that are kept; empty = all."""
    dedup: Literal["none", "recording", "text"] = "none"
    """Drop utterances whose recording (file and offset) or whose text occurred before in the source."""

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
    """One or several similar corpora: recordings (`manifests`, `shards`) or texts (`texts`)."""

    name: str
    """Its name in logs and messages."""
    manifests: tuple[str, ...] = ()
    """Manifests (.jsonl, .jsonl.gz), relative to the data directory."""
    shards: tuple[str, ...] = ()
    """Directories that `bestow-edge data shard` wrote, relative to the data directory."""
    texts: tuple[str, ...] = ()
    """Text files (.tsv, .jsonl, gzipped or not), relative to the data directory. Their batches have no speech."""
    weight: float = 1.0
    """Share of the batches, relative to the other sources. A stage may set other weights."""
    join: JoinRecipe | None = None
    """Join short recordings into longer utterances on the fly. Left out = use them as they are."""
    tasks: tuple[SpokenTask, ...] = ("transcribe", "translate")
    """Speech: tasks, of which one is drawn each time an utterance is used; `answer` asks the question of the line.
    Texts: `[answer]` learns column answer after question and passage (language in column lang); other tasks have no
    effect."""
    pairs: tuple[str, ...] = ()
    """Speech: language pairs to ask for, empty = all of the model. A pair that is listed twice is drawn twice as often.
    Texts: pairs to translate, empty = none."""
    columns: tuple[str, ...] = ()
    """Texts: columns (or JSON fields, or language codes) that are learned as plain text by next-token prediction."""
    as_spoken: bool = False
    """Texts: write the texts to translate and the passages in the prompt like transcripts, as words in lower case, so
    that the LLM learns to read the form in which speech will come. Rows with digits or symbols are dropped."""
    word_times: WordTimes = "none"
    """Times of the words. `none`: unknown. `manifest`: the field `word_times` of the lines. `estimated`: words in
    proportion to their letters between the first and the last sound. `aligned`: aligned by the encoder of an earlier
    stage with labels (`ctc_weight`, `alignment_weight`), unknown in stages before. Pauses and the alignment, count and
    attention losses use utterances with known times, among them joined recordings."""
    window_s: tuple[float, ...] = ()
    """Shortest and longest window, seconds. Each time a longer utterance with known word times is used, a random window
    of it is drawn, similar to a segment of streamed speech. For transcripts only. Empty = whole utterances."""
    shards_at_once: int = 0
    """Shards that are shuffled together before the next ones, so that reading is nearly sequential. 0 = all."""
    shard_cache: str = ""
    """Local directory to which shards are copied before they are read. Empty = read the originals."""
    batch_tokens: int = 8192
    """Texts: tokens in a batch, padding included."""
    max_tokens: int = 1024
    """Texts: most tokens of a row. A longer pair is dropped; of a longer plain text a random part is drawn."""
    max_bad: int = 100
    """Number of unreadable recordings that a reading process skips and logs. One more is an error."""

    def __post_init__(self) -> None:
        """Check which fields may be combined."""
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
            raise ConfigError(f"{where}: window_s is for tasks: [transcribe]; a window has no other text")

    def timed(self, *, aligned: bool) -> bool:
        """Return whether a stage knows word times; `aligned` = an earlier stage has taught the encoder labels."""
        if self.word_times == "aligned":
            return aligned
        return self.join is not None or self.word_times != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRecipe:
    """Sources, filters and augmentation of the training data."""

    sources: tuple[SourceRecipe, ...]
    """Sources of the batches. Each batch comes from one of them."""
    dev_sources: tuple[SourceRecipe, ...]
    """Sources of the dev loss, without augmentation."""
    buckets: int = 30
    """Length classes of a source. A batch is drawn from one class, so that it has little padding. 1 = no classes."""
    filter: FilterRecipe = field(default_factory=FilterRecipe)
    """Filters of recordings."""
    readers: int = 1
    """Number of readers: reader i mod `readers` reads batch i. With `shards_at_once` the shards are divided among the
    readers. All readers take batches of the same source in a turn, so that no process waits for a longer batch. Set it
    to the number of training processes. The order of batches depends on it, not on the number of processes."""
    index_cache: str = ""
    """Directory of a cache of indexes, relative to the data directory. With it, millions of lines are read once and not
    at every start of every process. Empty = no cache."""
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    """Augmentation of the speech of `sources`, joined or not."""

    def __post_init__(self) -> None:
        """Check that there are sources with unique names."""
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

    A stage without `sources` draws from all sources, or from all speech for `ctc` and `reading`. The dev loss uses all
    `dev_sources`, with the same exception.
    """
    if stage.sources and not dev:
        return dict(stage.sources)
    sources = data.dev_sources if dev else data.sources
    no_texts = stage.objective in SPEECH_OBJECTIVES
    return {source.name: source.weight for source in sources if not (source.texts and no_texts)}


def check_pairs(data: DataRecipe, pairs: Sequence[str]) -> None:
    """Check that sources of speech ask only for language pairs of the model.

    Raises:
        ConfigError: if a source asks for another pair.
    """
    for source in (*data.sources, *data.dev_sources):
        if not source.texts and (unknown := [pair for pair in source.pairs if pair not in pairs]):
            raise ConfigError(f"source {source.name}: pair {unknown[0]} is not one of the model's ({', '.join(pairs)})")


def check_stages(data: DataRecipe, stages: Sequence[StageRecipe]) -> None:
    """Check that the sources hold what the stages train on.

    Raises:
        ConfigError: if a stage names an unknown source, has no speech but needs it, lacks word times that it needs, or
            its batch is too small for the longest utterances.
    """
    if late := [source.name for source in data.dev_sources if source.word_times == "aligned"]:
        raise ConfigError(f"dev source {late[0]}: word_times aligned is for training; choose manifest or estimated")
    aligned = False
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
        _check_times(stage, spoken, aligned=aligned)
        aligned = aligned or teaches_labels(stage)
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
    """Return whether a stage teaches the encoder labels, with which recordings can be aligned."""
    return bool(stage.ctc_weight or stage.alignment_weight)


def _check_times(stage: StageRecipe, spoken: Sequence[SourceRecipe], *, aligned: bool) -> None:
    """Check that a source has the word times a loss needs; all sources must have them if there is no other loss."""
    fields = ("pauses", "prefixes", "alignment_weight", "count_weight", "attention_weight")
    needing = [name for name in fields if getattr(stage, name)]
    untimed = [source.name for source in spoken if not source.timed(aligned=aligned)]
    alone = stage.objective == "ctc" and not stage.ctc_weight
    if needing and untimed and (alone or len(untimed) == len(spoken)):
        choices = "word_times: manifest (the lines have word_times) or estimated; aligned needs a stage before"
        raise ConfigError(f"stage {stage.name}: {needing[0]} needs word times; give source {untimed[0]} {choices}")


def needs_transcripts(data: DataRecipe, source: SourceRecipe, stages: Sequence[StageRecipe]) -> bool:
    """Return whether a source's utterances need a transcript: to be joined, or for a loss of a stage."""
    if source.join is not None:
        return True
    learn = [stage for stage in stages if stage.ctc_weight or stage.objective == "ctc"]
    return any(source in data.dev_sources or source.name in drawn_sources(data, stage) for stage in learn)
