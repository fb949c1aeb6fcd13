"""Joins recordings into training utterances with known word times.

Recordings are decoded once and kept in memory. Draws depend on the given random generator only, so an utterance can be
made again from its index, and a resumed run sees the same data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bestow_edge.core.errors import AudioError
from bestow_edge.core.utterances import Utterance
from bestow_edge.training.data.corpora.recordings import BadRecordings, Recordings, Samples
from bestow_edge.training.recipe.data import JoinRecipe

LEVEL = 0.08  # RMS of each recording when it is joined, full scale = 1
SILENT_S = (0.3, 8.0)  # shortest and longest utterance without speech
EDGE_S = 0.02  # silence kept around trimmed speech
KEPT_S = 7200.0  # decoded recordings in memory, 0.5 GB at 16 kHz; others are decoded each time


@dataclass(frozen=True, slots=True)
class Piece:
    """One word or sentence of an utterance."""

    texts: Mapping[str, str]
    """Text by language."""
    start_s: float
    """Start of its first sound, seconds from the start of the utterance."""
    end_s: float
    """End of its last sound."""
    word_times: tuple[tuple[float, float], ...] = ()
    """Start and end of each of its words, seconds as above; empty = one word, or unknown."""

    def moved(self, later_s: float = 0.0, *, faster: float = 1.0) -> Piece:
        """Return the piece with its times divided by `faster` and then moved by `later_s`."""
        times = tuple((start / faster + later_s, end / faster + later_s) for start, end in self.word_times)
        return Piece(self.texts, self.start_s / faster + later_s, self.end_s / faster + later_s, times)


@dataclass(frozen=True, slots=True)
class Composed:
    """One utterance."""

    waveform: Samples
    source_lang: str
    pieces: tuple[Piece, ...]


class Composer:
    """Draws recordings and joins them into utterances."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        join: JoinRecipe,
        recordings: Recordings,
        bad: BadRecordings,
        *,
        timed: bool = False,
    ) -> None:
        """Group recordings in the order of the draws: language and corpus, then speaker or word.

        Recordings that cannot be read are counted by `bad` and left out. `timed` = pieces have the word times of their
        recordings.
        """
        self.join, self.recordings, self.bad, self.timed = join, recordings, bad, timed
        self.rate_hz = recordings.rate_hz
        self._kept_s = 0.0
        self._decoded: dict[tuple[object, ...], Samples] = {}
        words = set(join.vocabulary)
        self.others: list[Utterance] = []
        self.groups: dict[tuple[str, str], dict[str, list[Utterance]]] = {}
        for item in utterances:
            text = item.transcript or ""
            if words and not set(text.split()) <= words:
                self.others.append(item)
                continue
            group = self.groups.setdefault((item.source_lang, item.corpus), {})
            group.setdefault(text if words else item.speaker, []).append(item)

    def draw(self, rng: np.random.Generator, num_pieces: int) -> Composed:
        """Draw one utterance of `num_pieces` joined recordings; 0 = silence."""
        language, drawn = self._choose(rng, num_pieces)
        chosen = [item for item in drawn if self._decode(item).size]
        if not chosen:
            return Composed(np.zeros(int(rng.uniform(*SILENT_S) * self.rate_hz), dtype=np.float32), language, ())
        trim = rng.random() < self.join.trim
        parts: list[Samples] = [self._silence(rng, 0.3)]
        pieces: list[Piece] = []
        length = parts[0].size
        odd_one = int(rng.integers(num_pieces + 1)) if rng.random() < self.join.distractors and self.others else -1
        for index, item in enumerate(chosen):
            if index == odd_one and self._decode(other := self._pick(rng, self.others)).size:
                parts += [self._levelled(rng, other, trim)[0], self._gap(rng)]
                length += parts[-2].size + parts[-1].size
            samples, piece = self._levelled(rng, item, trim)
            pieces.append(piece.moved(length / self.rate_hz))
            parts += [samples, self._gap(rng)]
            length += samples.size + parts[-1].size
        parts[-1] = self._silence(rng, 0.4)
        return Composed(np.concatenate(parts), language, tuple(pieces))

    def _choose(self, rng: np.random.Generator, num_pieces: int) -> tuple[str, list[Utterance]]:
        groups = sorted(self.groups)
        language, corpus = groups[rng.integers(len(groups))]
        by_key = self.groups[language, corpus]
        keys = sorted(by_key)
        chosen = [self._pick(rng, by_key[keys[rng.integers(len(keys))]]) for _ in range(num_pieces)]
        if num_pieces > 1 and rng.random() >= self.join.mixed_speakers:
            chosen = self._one_speaker(rng, by_key, chosen[0].speaker, num_pieces)
        return language, chosen

    def _one_speaker(
        self, rng: np.random.Generator, by_key: Mapping[str, list[Utterance]], speaker: str, num_pieces: int
    ) -> list[Utterance]:
        own = []
        for key in sorted(by_key):
            mine = [item for item in by_key[key] if item.speaker == speaker]
            own += [mine] if mine else []
        return [self._pick(rng, own[rng.integers(len(own))]) for _ in range(num_pieces)]

    @staticmethod
    def _pick(rng: np.random.Generator, items: Sequence[Utterance]) -> Utterance:
        return items[int(rng.integers(len(items)))]

    def _levelled(self, rng: np.random.Generator, item: Utterance, trim: bool) -> tuple[Samples, Piece]:
        """Return a recording at the level of the joined utterance, trimmed if asked, with its texts and times."""
        samples = self._decode(item)
        start, end = active_range(samples, self.rate_hz)
        times = item.word_times if self.timed else ()
        piece = Piece(item.texts, start / self.rate_hz, end / self.rate_hz, times)
        if trim:
            edge = int(EDGE_S * self.rate_hz)
            first = max(0, start - edge)
            samples = samples[first : end + edge]
            piece = piece.moved(-first / self.rate_hz)
        rms = np.sqrt(np.mean(samples**2)) + 1e-9
        levelled: Samples = (samples * (LEVEL * 10 ** (rng.uniform(-4, 4) / 20) / rms)).astype(np.float32)
        return levelled, piece

    def _decode(self, item: Utterance) -> Samples:
        """Return the waveform of a recording, empty if it cannot be read."""
        key = (item.path, item.offset_s, item.audio_bytes)
        if key in self._decoded:
            return self._decoded[key]
        try:
            samples = self.recordings.read(item)
        except AudioError as error:
            self.bad.add(str(item.path), error)
            samples = np.zeros(0, dtype=np.float32)
        if self._kept_s < KEPT_S:
            self._decoded[key] = samples
            self._kept_s += samples.size / self.rate_hz
        return samples

    def _gap(self, rng: np.random.Generator) -> Samples:
        long = rng.random() < self.join.long_pauses
        seconds = rng.uniform(0.3, 1.5) if long else rng.uniform(0, self.join.max_gap_s)
        return np.zeros(int(seconds * self.rate_hz), dtype=np.float32)

    def _silence(self, rng: np.random.Generator, usual_s: float) -> Samples:
        kind = rng.random()
        seconds = 0.0 if kind < 0.3 else rng.uniform(0, usual_s) if kind < 0.9 else rng.uniform(0, 2.0)
        return np.zeros(int(seconds * self.rate_hz), dtype=np.float32)


def active_range(samples: Samples, rate_hz: int) -> tuple[int, int]:
    """Return the first sample of the sound and its end: 20 ms blocks within 30 dB of the loudest, or all samples."""
    block = rate_hz // 50
    count = samples.size // block
    if count < 2 or not samples.any():
        return 0, samples.size
    power = np.mean(samples[: count * block].reshape(count, block) ** 2, axis=1)
    loud = np.flatnonzero(power > power.max() * 1e-3)
    return int(loud[0]) * block, min(samples.size, (int(loud[-1]) + 1) * block)
