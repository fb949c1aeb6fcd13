"""Batches of utterances that are used as they are: each is given a task, features and word times. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bestow_edge.core.errors import AudioError, ManifestError
from bestow_edge.core.prompts import Pair, Question
from bestow_edge.core.utterances import Utterance
from bestow_edge.training.data.augmentation import change_speed, scaled, spoken_features
from bestow_edge.training.data.corpora.batch_plan import Plan
from bestow_edge.training.data.corpora.filters import Sieve
from bestow_edge.training.data.corpora.index import Corpus
from bestow_edge.training.data.corpora.recordings import BadRecordings, Recordings, Samples, at_least_ten_frames
from bestow_edge.training.data.corpora.windows import cut_window
from bestow_edge.training.data.corpora.word_times import (
    Spans,
    estimated_times,
    heard_translation,
    labels_with_times,
    tokens_with_times,
)
from bestow_edge.training.data.examples import Example, ExampleMaker
from bestow_edge.training.data.tokens import answer_ids
from bestow_edge.training.recipe.data import AugmentRecipe
from bestow_edge.training.recipe.stages import between


class SpeechBatches:
    """The batches of one source of speech in one stage."""

    def __init__(
        self,
        corpus: Corpus,
        sieve: Sieve,
        recordings: Recordings,
        maker: ExampleMaker,
        plan: Plan,
        *,
        augments: AugmentRecipe,
        noises: Sequence[Samples],
        aligned: Mapping[str, Spans],
    ) -> None:
        """Store the parts that make batches. `aligned` has word times by file and line, for `word_times: aligned`."""
        self.corpus, self.sieve, self.recordings, self.maker, self.plan = corpus, sieve, recordings, maker, plan
        self.augments, self.noises, self.aligned = augments, noises, aligned
        self.bad = BadRecordings(sieve.source.name, sieve.source.max_bad)

    def examples(self, group: int, number: int, seed: Sequence[int], done: float) -> list[Example]:
        """Return the rows of a batch, as `mixture.Batches` describes. Unreadable recordings are left out and counted.

        The strength of the augmentation changes over the stage.

        Raises:
            ManifestError: if more than the source's `max_bad` recordings, or all of several batches, are unreadable.
        """
        augments = scaled(self.augments, between(self.maker.stage.augment, done))
        for following in range(self.sieve.source.max_bad + 1):
            rows = self.plan.batch(group, number + following)
            good = []
            for index, row in enumerate(rows, 1):  # [seed, 0] is the stream of [seed], which is in use
                example = self._example(int(row), np.random.default_rng([*seed, index]), augments)
                if example is not None:
                    good.append(example)
            if good:
                return good
        raise ManifestError(f"source {self.sieve.source.name}: none of {following + 1} batches can be read")

    def _example(self, row: int, rng: np.random.Generator, augments: AugmentRecipe) -> Example | None:
        item = self.corpus.utterance(row)
        if self.sieve.source.word_times == "aligned" and not item.word_times:
            found = self.aligned.get(self.corpus.where(row), np.zeros((0, 2)))
            item = replace(item, word_times=tuple((start, end) for start, end in found.tolist()))
        if self.sieve.source.window_s:
            item = cut_window(item, rng, self.sieve.source.window_s)
        try:
            waveform = self.recordings.read(item)
        except AudioError as error:
            self.bad.add(self.corpus.where(row), error)
            return None
        if augments.speed:
            factor = 1 + rng.uniform(-augments.speed, augments.speed)
            waveform = change_speed(waveform, factor, self.recordings.rate_hz)
            times = tuple((start / factor, end / factor) for start, end in item.word_times)
            item = replace(item, duration_s=item.duration_s / factor, word_times=times)
        waveform = at_least_ten_frames(waveform, self.recordings.rate_hz)
        times_s = self._times(item, waveform)
        prefix_s = None
        if times_s is not None and "answer" not in self.sieve.source.tasks:
            prefix_s = self.maker.prefix_s(len(waveform) / self.recordings.rate_hz, rng)
            waveform = waveform if prefix_s is None else waveform[: round(prefix_s * self.recordings.rate_hz)]
        mel = spoken_features(waveform, rng, augments, self.noises, self.maker.config.features)
        return spoken_example(self.maker, item, self._asked(item, rng), times_s, mel, rng, prefix_s=prefix_s)

    def _times(self, item: Utterance, waveform: Samples) -> Spans | None:
        kind = self.sieve.source.word_times
        if kind == "none" or item.transcript is None or (kind == "aligned" and not item.word_times):
            return None
        if kind == "estimated" and not item.word_times:
            return estimated_times(item.transcript, waveform, self.recordings.rate_hz)
        return np.array(item.word_times, dtype=np.float64).reshape(-1, 2)

    def _asked(self, item: Utterance, rng: np.random.Generator) -> Pair | Question:
        asked: list[Pair | Question] = [
            pair for pair in self.sieve.pairs if pair.source == item.source_lang and pair.target in item.texts
        ]
        if "answer" in self.sieve.source.tasks and item.question:
            asked.append(Question(item.source_lang, item.question))
        return asked[int(rng.integers(len(asked)))]


def spoken_example(
    maker: ExampleMaker,
    item: Utterance,
    asked: Pair | Question,
    times_s: Spans | None,
    mel: Samples,
    rng: np.random.Generator,
    *,
    prefix_s: float | None = None,
) -> Example:
    """Build the example of an utterance with features `mel`, (frames, mel_bins), and of one prompt.

    The utterance has the text or the answer that is asked for. `times_s` are start and end of each word of the
    transcript, (words, 2); None = unknown. `mel` holds the first `prefix_s` seconds; None = all.
    """
    transcript = item.transcript
    spans = heard_s = None
    if isinstance(asked, Pair) and times_s is not None and transcript is not None:
        if asked.target == item.source_lang:
            answer, spans, _ = tokens_with_times(maker.tokenizer, transcript, times_s)
        else:
            answer, heard_s = heard_translation(maker.tokenizer, item.texts[asked.target], transcript, times_s)
    else:
        answer = answer_ids(maker.tokenizer, item.texts[asked.target] if isinstance(asked, Pair) else item.answer)
    return maker.build(
        mel,
        rng,
        prompt=maker.prompt(asked),
        answer=answer,
        spans_s=np.full((len(answer), 2), np.nan) if spans is None else spans,
        transcript=[] if transcript is None else answer_ids(maker.labels, transcript),
        words=None if transcript is None or times_s is None else labels_with_times(maker.labels, transcript, times_s),
        heard_s=heard_s,
        prefix_s=prefix_s,
    )
