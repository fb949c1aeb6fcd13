"""Batches of utterances as they are: which task each one is given, its features and its times. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError, ManifestError
from bestow_edge.core.prompts import Pair, Question
from bestow_edge.core.utterances import Utterance
from bestow_edge.training.data.augmentation import change_speed, scaled, spoken_features
from bestow_edge.training.data.corpora.batch_plan import Plan
from bestow_edge.training.data.corpora.filters import Sieve
from bestow_edge.training.data.corpora.index import Corpus
from bestow_edge.training.data.corpora.recordings import BadRecordings, Recordings
from bestow_edge.training.data.corpora.windows import cut_window
from bestow_edge.training.data.corpora.word_times import (
    Spans,
    estimated_times,
    heard_translation,
    labels_with_times,
    tokens_with_times,
)
from bestow_edge.training.data.examples import Example, ExampleMaker
from bestow_edge.training.data.tokens import answer_ids, prompt_ids
from bestow_edge.training.recipe.data import AugmentRecipe
from bestow_edge.training.recipe.stages import between

Samples = npt.NDArray[np.float32]


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
        """Keep what batches are made from.

        Args:
            corpus: the utterances.
            sieve: its tasks and pairs.
            recordings: reads audio.
            maker: makes examples for the model and the stage.
            plan: which utterances make up which batch.
            augments: changes made at full strength.
            noises: recorded noises.
            aligned: when the words of an utterance were heard, by where it is written; for `word_times: aligned`.
        """
        self.corpus, self.sieve, self.recordings, self.maker, self.plan = corpus, sieve, recordings, maker, plan
        self.augments, self.noises, self.aligned = augments, noises, aligned
        self.bad = BadRecordings(sieve.source.name, sieve.source.max_bad)

    def examples(self, group: int, number: int, seed: Sequence[int], done: float) -> list[Example]:
        """Return the rows of a batch. Recordings that cannot be read are left out and counted.

        Args:
            group: which reader asks.
            number: its batch of this source, from 0.
            seed: with the row's number, decides everything about a row.
            done: how much of the stage is over, 0 to 1; says how strongly rows are augmented.

        Raises:
            ManifestError: more than the source's `max_bad` recordings could not be read, or none of several batches.
        """
        augments = scaled(self.augments, between(self.maker.stage.augment, done))
        for following in range(self.sieve.source.max_bad + 1):
            rows = self.plan.batch(group, number + following)
            made = [
                self._example(int(row), np.random.default_rng([*seed, index]), augments)
                for index, row in enumerate(rows, 1)  # [seed, 0] is the stream of [seed], which is in use
            ]
            if good := [example for example in made if example is not None]:
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
        waveform = np.pad(waveform, (0, max(0, self.recordings.rate_hz // 10 - waveform.size)))  # at least ten frames
        times_s = self._times(item, waveform)
        mel = spoken_features(waveform, rng, augments, self.noises, self.maker.config.features)
        return spoken_example(self.maker, item, self._asked(item, rng), times_s, mel, rng)

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
) -> Example:
    """Build the example of one utterance and one prompt.

    Args:
        maker: makes examples for the model and the stage.
        item: the utterance.
        asked: a language pair it has texts for, or a question it has the answer to.
        times_s: (words, 2) start and end of each word of the transcript; None = unknown.
        mel: (frames, mel_bins) features.
        rng: decides policy and pauses.
    """
    said = item.transcript
    timed = None if said is None else times_s
    spans = heard_s = None
    if isinstance(asked, Pair) and timed is not None and said is not None and asked.target == item.source_lang:
        answer, spans, _ = tokens_with_times(maker.tokenizer, said, timed)
    elif isinstance(asked, Pair) and timed is not None and said is not None:
        answer, heard_s = heard_translation(maker.tokenizer, item.texts[asked.target], said, timed)
    else:
        answer = answer_ids(maker.tokenizer, item.texts[asked.target] if isinstance(asked, Pair) else item.answer)
    prompt = maker.prompts.get(str(asked)) if isinstance(asked, Pair) else None
    return maker.build(
        mel,
        rng,
        prompt=prompt or prompt_ids(maker.tokenizer, asked, maker.config.chat),
        answer=answer,
        spans_s=np.full((len(answer), 2), np.nan) if spans is None else spans,
        transcript=[] if said is None else answer_ids(maker.labels, said),
        words=None if said is None or timed is None else labels_with_times(maker.labels, said, timed),
        heard_s=heard_s,
    )
