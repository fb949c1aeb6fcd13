"""Sources mixed by weight as a dataset: item i is batch i of a stage, a function of the seed and i.

A batch comes from one source, so it is all speech or all text. In a turn all readers take batches of the same source.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from bestow_edge.core.prompts import Question, parse_pair
from bestow_edge.training.data.batches import Batch, collate
from bestow_edge.training.data.composition import Composer
from bestow_edge.training.data.corpora.batch_plan import Plan
from bestow_edge.training.data.corpora.filters import Report, Sieve
from bestow_edge.training.data.corpora.index import Corpus, drop_by_tokens, manifest_paths, read_corpus
from bestow_edge.training.data.corpora.joined_batches import JoinedBatches, make_composer
from bestow_edge.training.data.corpora.recorded_batches import SpeechBatches
from bestow_edge.training.data.corpora.recordings import Recordings, Samples
from bestow_edge.training.data.corpora.text_batches import TextBatches, TextCorpus
from bestow_edge.training.data.corpora.word_times import Spans
from bestow_edge.training.data.examples import Example, ExampleMaker
from bestow_edge.training.recipe.data import (
    AugmentRecipe,
    DataRecipe,
    SourceRecipe,
    check_pairs,
    drawn_sources,
    needs_transcripts,
    teaches_labels,
)
from bestow_edge.training.recipe.stages import StageRecipe

logger = logging.getLogger(__name__)
TOKENIZER_TEXTS = 500_000  # texts of each source or file, enough for a vocabulary
QUESTION_LINES = 2_000  # lines of each source, enough to find every language of questions


class Batches(Protocol):
    """The batches of one source."""

    def examples(self, group: int, number: int, seed: Sequence[int], done: float) -> list[Example]:
        """Return the rows of a batch.

        Args:
            group: number of the reader.
            number: of the reader's batch from this source, from 0.
            seed: of all draws.
            done: share of the stage that is over, 0 to 1.
        """


class MixedDataset(Dataset[Batch]):
    """Batches of several sources."""

    def __init__(
        self,
        batches: Sequence[Batches],
        weights: Sequence[float],
        stage: StageRecipe,
        *,
        num_batches: int,
        seed: int,
        readers: int = 1,
    ) -> None:
        """Draw the order of sources, by their weights.

        A longer dataset begins with the same batches, apart from augmentation and the number of joined recordings,
        which change over a stage. All draws follow from the seed and the index of the batch. Reader r of the `readers`
        takes items r, r + `readers` and so on.
        """
        self.batches, self.stage = batches, stage
        self.num_batches, self.seed, self.readers = num_batches, seed, readers
        shares = np.cumsum(np.array(weights, dtype=np.float64))
        turns = np.random.default_rng(seed).random(-(-num_batches // readers))
        self._picked = np.searchsorted(shares / shares[-1], turns, side="right").astype(np.uint8)
        self._earlier = np.zeros(self._picked.size, dtype=np.int64)  # number of earlier batches of the same source
        for source in range(len(batches)):
            mine = self._picked == source
            self._earlier[mine] = np.arange(mine.sum())

    def __len__(self) -> int:
        return self.num_batches

    def source_of(self, index: int) -> int:
        """Return the number of the source that a batch comes from."""
        return int(self._picked[index // self.readers])

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self.num_batches:
            raise IndexError(index)
        turn, reader = divmod(index, self.readers)
        source, number = self.batches[self.source_of(index)], int(self._earlier[turn])
        examples = source.examples(reader, number, [self.seed, index], index / self.num_batches)
        drawn = np.random.default_rng([self.seed, index]).integers(len(self.stage.lookaheads))
        return collate(examples, lookahead=int(self.stage.lookaheads[drawn]))


class Corpora:
    """All sources of a recipe, read and filtered. The datasets of the stages are made from them."""

    def __init__(self, data: DataRecipe, stages: Sequence[StageRecipe], pairs: Sequence[str], data_dir: Path) -> None:
        """Read manifests, indexes of shards and headers of text files, relative to `data_dir`.

        The stages decide what an utterance must have. `pairs` are the model's language pairs.

        Raises:
            ManifestError: if a file is missing or has a bad line, or no utterance of a source is left.
            ConfigError: if a source names a pair that the model does not have.
        """
        check_pairs(data, pairs)
        self.data, self.stages, self.pairs, self.data_dir = data, stages, tuple(pairs), data_dir
        self.texts_read: dict[str, TextCorpus] = {}
        self.speech_read: dict[str, tuple[Corpus, Sieve, Report]] = {}
        self._composers: dict[str, Composer] = {}
        self.aligned: dict[str, Spans] = {}
        """Word times of sources with `word_times: aligned`, by file and line of the utterance."""
        self._measured = False
        self._logged: set[tuple[str, str]] = set()
        self.cache = data_dir / data.index_cache if data.index_cache else None
        for key, source in self._sources("train", "dev"):
            if source.texts:
                self.texts_read[key] = TextCorpus(source, data_dir)
                continue
            needed = needs_transcripts(data, source, stages)
            sieve = Sieve(source, data.filter, pairs, needs_transcript=needed)
            corpus, report = read_corpus(manifest_paths(source, data_dir), sieve, self.cache)
            self.speech_read[key] = corpus, sieve, report

    @property
    def reports(self) -> list[Report]:
        """The report of each source. They are complete after `measure`."""
        speech = {key: report for key, (_, _, report) in self.speech_read.items()}
        texts = {key: corpus.report for key, corpus in self.texts_read.items()}
        return [(speech | texts)[key] for key, _ in self._sources("train", "dev")]

    def texts(self) -> Iterator[str]:
        """Yield the training texts of a tokenizer. Recordings with words outside their vocabulary are skipped.

        Raises:
            ManifestError: if a text file has a bad line.
        """
        languages = sorted({parse_pair(pair).source for pair in self.pairs})
        if any("answer" in source.tasks for source in self.data.sources):
            yield from (Question(code, "?").instruction for code in languages)
        for key, source in self._sources("train"):
            if key in self.texts_read:
                yield from self.texts_read[key].texts(TOKENIZER_TEXTS)
            else:
                words = source.join.vocabulary if source.join else ()
                yield from self.speech_read[key][0].texts(TOKENIZER_TEXTS, words)

    def transcripts(self) -> Iterator[str]:
        """Yield transcripts, the training texts of the labels' vocabulary."""
        for key, source in self._sources("train"):
            if not source.texts:
                yield from self.speech_read[key][0].transcripts(TOKENIZER_TEXTS)

    @property
    def words(self) -> set[str]:
        """Words of the sources' vocabularies. Each is to be a token of its own."""
        words: set[str] = set()
        for source in self.data.sources:
            words.update(source.join.vocabulary if source.join else ())
        return words

    def questions(self) -> tuple[str, ...]:
        """Return the languages of speech with training questions, found in lines spread evenly over each source."""
        found: set[str] = set()
        for key, source in self._sources("train"):
            if key in self.speech_read and "answer" in source.tasks:
                found |= self.speech_read[key][0].questioned(QUESTION_LINES)
        return tuple(sorted(found))

    def measure(self, maker: ExampleMaker) -> None:
        """Count the tokens that filters, CTC and batches of texts need, and log the reports. Later calls do nothing.

        Raises:
            ManifestError: if no utterance of a source is left.
        """
        if self._measured:
            return
        limit = self.data.filter.max_tokens_per_s
        for key, source in self._sources("train", "dev"):
            if key in self.speech_read:
                corpus, sieve, report = self.speech_read[key]
                speed = self._ctc_speed(source)
                left, both = drop_by_tokens(corpus, report, maker, ctc_speed=speed, max_per_s=limit, cache=self.cache)
                self.speech_read[key] = left, sieve, both
        for texts in self.texts_read.values():
            texts.measure(maker, self.cache)
        for report in self.reports:
            logger.info("%s", report.sentence())
        self._measured = True

    def _ctc_speed(self, source: SourceRecipe) -> float:
        """Return the highest playing speed of a source in stages that train labels at encoder steps.

        0 = there is no such stage, or recordings are joined: the words of a vocabulary are short enough.
        """
        strengths = []
        for stage in self.stages:
            drawn = source in self.data.dev_sources or source.name in drawn_sources(self.data, stage)
            if teaches_labels(stage) and drawn and source.join is None:
                strengths.append(max(stage.augment))
        return 1 + self.data.augment.speed * max(strengths) if strengths else 0.0

    def to_align(self, stage: StageRecipe) -> list[Corpus]:
        """Return the training recordings of a stage with `word_times: aligned`."""
        drawn = drawn_sources(self.data, stage)
        sources = [(key, source) for key, source in self._sources("train") if source.name in drawn]
        return [self.speech_read[key][0] for key, source in sources if source.word_times == "aligned"]

    def dataset(
        self,
        maker: ExampleMaker,
        *,
        dev: bool,
        num_batches: int,
        seed: int,
        noises: Sequence[Samples] = (),
    ) -> MixedDataset:
        """Return the batches of a stage; `dev` = those of `dev_sources`, without augmentation.

        Raises:
            ManifestError: if no utterance of a source is left.
            ConfigError: if a source has fewer shards than there are readers.
        """
        self.measure(maker)
        drawn = drawn_sources(self.data, maker.stage, dev=dev)
        batches: list[Batches] = []
        weights = []
        for number, (key, source) in enumerate(self._sources("dev" if dev else "train")):
            if source.name in drawn:
                augments = AugmentRecipe() if dev else self.data.augment
                batches.append(self._batches(key, source, maker, [seed, number], augments, noises))
                weights.append(drawn[source.name])
        return MixedDataset(
            batches, weights, maker.stage, num_batches=num_batches, seed=seed, readers=self.data.readers
        )

    def _batches(
        self,
        key: str,
        source: SourceRecipe,
        maker: ExampleMaker,
        seed: Sequence[int],
        augments: AugmentRecipe,
        noises: Sequence[Samples],
    ) -> Batches:
        buckets, readers = self.data.buckets, self.data.readers
        if key in self.texts_read:
            texts = self.texts_read[key]
            plan = Plan(texts.rows["lengths"], source.batch_tokens, buckets=buckets, seed=seed, groups=readers)
            self._log_epoch(key, maker.stage.name, plan)
            return TextBatches(texts, maker, plan)
        corpus, sieve, _ = self.speech_read[key]
        rate_hz = maker.config.features.sample_rate_hz
        if source.join is not None:
            if key not in self._composers:
                self._composers[key] = make_composer(corpus, source, source.join, rate_hz)
            return JoinedBatches(self._composers[key], sieve, maker, augments=augments, noises=noises)
        longest_s = source.window_s[1] if source.window_s else np.inf
        plan = Plan(
            np.minimum(corpus.durations_s, np.float32(longest_s)),
            maker.stage.batch_s,
            buckets=buckets,
            seed=seed,
            files=corpus.file_ids,
            files_at_once=source.shards_at_once,
            groups=readers,
        )
        self._log_epoch(key, maker.stage.name, plan)
        cache = self.data_dir / source.shard_cache if source.shard_cache else None
        recordings = Recordings(rate_hz, cache=cache, kept=2 * source.shards_at_once * readers)
        return SpeechBatches(
            corpus, sieve, recordings, maker, plan, augments=augments, noises=noises, aligned=self.aligned
        )

    def _log_epoch(self, key: str, stage: str, plan: Plan) -> None:
        """Log the size of an epoch, once for each source and stage."""
        if key.startswith("train") and (key, stage) not in self._logged:
            self._logged.add((key, stage))
            size = f"{plan.num_batches()} batches an epoch, {100 * plan.padding():.1f} % padding"
            logger.info("stage %s, source %s: %s", stage, key.partition(":")[2], size)

    def _sources(self, *kinds: str) -> Iterator[tuple[str, SourceRecipe]]:
        """Yield the sources of these kinds with unique keys, such as `train:digits`."""
        for kind in kinds:
            for source in self.data.sources if kind == "train" else self.data.dev_sources:
                yield f"{kind}:{source.name}", source
