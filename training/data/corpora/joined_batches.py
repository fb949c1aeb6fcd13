"""Batches of recordings that are joined on the fly, augmented and given a task. numpy only.

There are no epochs: each utterance is drawn from the seed and the number of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.prompts import Pair
from bestow_edge.training.data.augmentation import change_speed, scaled, spoken_features
from bestow_edge.training.data.composition import LEVEL, Composed, Composer, Piece
from bestow_edge.training.data.corpora.filters import Sieve
from bestow_edge.training.data.corpora.index import Corpus
from bestow_edge.training.data.corpora.recordings import BadRecordings, Recordings, Samples, at_least_ten_frames
from bestow_edge.training.data.corpora.word_times import Spans, heard_translation, labels_with_times, tokens_with_times
from bestow_edge.training.data.examples import FRAMES_PER_S, Example, ExampleMaker, Word
from bestow_edge.training.data.noises import sound
from bestow_edge.training.data.tokens import answer_ids
from bestow_edge.training.recipe.data import AugmentRecipe, JoinRecipe, SourceRecipe
from bestow_edge.training.recipe.stages import between

Moments = npt.NDArray[np.float64]
STREAM = 1  # of random numbers; look-aheads are drawn from another stream


def make_composer(corpus: Corpus, source: SourceRecipe, join: JoinRecipe, rate_hz: int) -> Composer:
    """Read all lines of a source and make the composer of its recordings.

    Raises:
        ManifestError: if every transcript has words outside the vocabulary.
    """
    items = [corpus.utterance(row) for row in range(len(corpus))]
    bad = BadRecordings(source.name, source.max_bad)
    composer = Composer(items, join, Recordings(rate_hz), bad, timed=source.word_times == "manifest")
    if not composer.groups:
        raise ManifestError(
            f"source {source.name}: each of its {len(items)} recordings has words that are not in join.vocabulary"
        )
    return composer


class JoinedBatches:
    """The batches of one source with `join` in one stage."""

    def __init__(
        self,
        composer: Composer,
        sieve: Sieve,
        maker: ExampleMaker,
        *,
        augments: AugmentRecipe,
        noises: Sequence[Samples],
    ) -> None:
        """Store the parts that make batches. The sieve holds the language pairs of the source."""
        self.composer, self.sieve, self.maker = composer, sieve, maker
        self.augments, self.noises = augments, noises

    def examples(self, group: int, number: int, seed: Sequence[int], done: float) -> list[Example]:  # noqa: ARG002
        """Return the rows of a batch, as `mixture.Batches` describes; as many as fill the stage's `batch_s`.

        All readers draw from all recordings. The number of joined recordings and the strength of the augmentation
        change over the stage.
        """
        rng, stage = np.random.default_rng([*seed, STREAM]), self.maker.stage
        most = round(between(stage.pieces, done))
        augments = scaled(self.augments, between(stage.augment, done))
        around = int(rng.integers(1, most + 1))  # utterances of a batch are of like length
        examples: list[Example] = []
        longest_s = 0.0
        while longest_s * (len(examples) + 1) < stage.batch_s:
            empty = rng.random() < self.composer.join.noise_only
            pieces = 0 if empty else int(np.clip(around + rng.integers(-1, 2), 1, most))
            examples.append(self._example(pieces, augments, rng))
            longest_s = max(longest_s, examples[-1].mel.shape[0] / FRAMES_PER_S)
        return examples

    def _example(self, num_pieces: int, augments: AugmentRecipe, rng: np.random.Generator) -> Example:
        rate_hz = self.composer.rate_hz
        composed = self.composer.draw(rng, num_pieces)
        waveform, pieces = composed.waveform, composed.pieces
        if augments.speed:
            factor = 1 + rng.uniform(-augments.speed, augments.speed)
            waveform = change_speed(waveform, factor, rate_hz)
            pieces = tuple(piece.moved(faster=factor) for piece in pieces)
        waveform = at_least_ten_frames(waveform, rate_hz)
        if not pieces:
            waveform = self._wordless(waveform, rng)
        prefix_s = self.maker.prefix_s(len(waveform) / rate_hz, rng)
        waveform = waveform if prefix_s is None else waveform[: round(prefix_s * rate_hz)]
        mel = spoken_features(waveform, rng, augments, self.noises, self.maker.config.features)
        composed = Composed(waveform, composed.source_lang, pieces)
        return joined_example(self.maker, composed, self.sieve.pairs, mel, rng, prefix_s=prefix_s)

    def _wordless(self, silence: Samples, rng: np.random.Generator) -> Samples:
        """Return silence for a fifth of the utterances without speech, else a sound 0 to 30 dB below speech."""
        if rng.random() < 0.2:
            return silence
        level = LEVEL * 10 ** (-rng.uniform(0, 30) / 20)
        return sound(silence.size, rng, self.noises, self.composer.rate_hz) * np.float32(level)


def joined_example(
    maker: ExampleMaker,
    composed: Composed,
    pairs: Sequence[Pair],
    mel: Samples,
    rng: np.random.Generator,
    *,
    prefix_s: float | None = None,
) -> Example:
    """Draw a language pair and build the example of an utterance with features `mel`, (frames, mel_bins).

    `mel` holds the first `prefix_s` seconds; None = all.

    Raises:
        ManifestError: if there is no pair for which all recordings have a text.
    """
    served = [pair for pair in pairs if _serves(pair, composed)]
    if not served:
        spoken, asked = composed.source_lang, ", ".join(map(str, pairs))
        raise ManifestError(f"joined recordings in {spoken!r} have no text in common for any of the pairs {asked}")
    pair = served[rng.integers(len(served))]
    answer, spans_s, heard_s = _tokens(maker.tokenizer, composed, pair.target)
    transcript, _, _ = _tokens(maker.labels, composed, composed.source_lang)
    words: list[Word] = []
    for piece in composed.pieces:
        words += _words(maker.labels, piece, composed.source_lang)
    return maker.build(
        mel,
        rng,
        prompt=maker.prompt(pair),
        answer=answer,
        spans_s=spans_s,
        transcript=transcript,
        words=words,
        heard_s=heard_s,
        prefix_s=prefix_s,
    )


def _serves(pair: Pair, composed: Composed) -> bool:
    return pair.source == composed.source_lang and all(pair.target in piece.texts for piece in composed.pieces)


def _words(labels: Tokenizer, piece: Piece, spoken: str) -> list[Word]:
    """Return labels, start and end of each word; of the piece as one word if its word times are unknown."""
    if piece.word_times:
        return labels_with_times(labels, piece.texts[spoken], np.array(piece.word_times))
    return [(answer_ids(labels, piece.texts[spoken]), piece.start_s, piece.end_s)]


def _tokens(tokenizer: Tokenizer, composed: Composed, language: str) -> tuple[list[int], Spans, Moments]:
    """Return tokens, (tokens, 2) start and end of each one's word, and (tokens,) time by which it has been heard."""
    tokens: list[int] = []
    spans, heard = [np.zeros((0, 2))], [np.zeros(0)]
    for piece in composed.pieces:
        text, times_s = piece.texts[language], np.array(piece.word_times)
        if not piece.word_times:
            ids = answer_ids(tokenizer, text)
            spans.append(np.tile([piece.start_s, piece.end_s], (len(ids), 1)))
            heard.append(spans[-1][:, 1])
        elif language == composed.source_lang:
            ids, word_spans, _ = tokens_with_times(tokenizer, text, times_s)
            spans.append(word_spans)
            heard.append(word_spans[:, 1])
        else:
            ids, ends_s = heard_translation(tokenizer, text, piece.texts[composed.source_lang], times_s)
            spans.append(np.full((len(ids), 2), np.nan))
            heard.append(ends_s)
        tokens += ids
    return tokens, np.concatenate(spans), np.concatenate(heard)
