"""Statistics of manifests: hours, speakers, languages, lengths, pace. It reads lines, not recordings."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.utterances import LINES, Utterance, parse_utterance
from bestow_edge.training.data.corpora.text_files import LineFile

LENGTHS_S = (0, 1, 2, 4, 8, 12, 16, 20, 30, 60)
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(slots=True)
class Speech:
    """The utterances in one language."""

    utterances: int = 0
    """Number of utterances."""
    seconds: float = 0.0
    """Their length."""
    speakers: set[str] = field(default_factory=set)
    """Names of the speakers."""
    words: int = 0
    """Words of the transcripts."""
    letters: int = 0
    """Characters of the transcripts."""
    transcribed_s: float = 0.0
    """Length of the utterances that have a transcript."""
    translations: Counter[str] = field(default_factory=Counter)
    """Utterances with a translation, by the language of the translation."""
    questions: int = 0
    """Utterances with a question."""
    timed: int = 0
    """Utterances with word times."""

    def add(self, item: Utterance) -> None:
        """Count an utterance."""
        self.utterances += 1
        self.seconds += item.duration_s
        if item.speaker:
            self.speakers.add(item.speaker)
        if item.transcript is not None:
            self.words += len(item.transcript.split())
            self.letters += len(item.transcript)
            self.transcribed_s += item.duration_s
        self.translations.update(language for language in item.texts if language != item.source_lang)
        self.questions += bool(item.question)
        self.timed += bool(item.word_times)

    def to_dict(self) -> dict[str, object]:
        """Return the statistics for JSON."""
        pace = self.transcribed_s or 1.0
        return {
            "utterances": self.utterances,
            "hours": round(self.seconds / 3600, 4),
            "speakers": len(self.speakers),
            "words": self.words,
            "words_per_s": round(self.words / pace, 2),
            "chars_per_s": round(self.letters / pace, 2),
            "translations": dict(self.translations),
            "questions": self.questions,
            "word_times": self.timed,
        }


@dataclass(slots=True)
class Summary:
    """Statistics of manifests."""

    languages: dict[str, Speech] = field(default_factory=lambda: defaultdict(Speech))
    """By language of the speech."""
    seconds: array[float] = field(default_factory=lambda: array("f"))
    """Length of each utterance."""

    @property
    def hours(self) -> float:
        """Length of all utterances."""
        return sum(speech.seconds for speech in self.languages.values()) / 3600

    @property
    def speakers(self) -> int:
        """Speakers of all languages."""
        return len(set().union(*(speech.speakers for speech in self.languages.values())))

    def lengths(self) -> list[tuple[str, int, float]]:
        """Return the histogram: class, utterances and hours of each."""
        seconds = np.frombuffer(self.seconds, dtype=np.float32)
        classes = np.searchsorted(LENGTHS_S, seconds, side="right") - 1
        ends = [f"{start}-{end} s" for start, end in pairwise(LENGTHS_S)]
        names = [*ends, f"{LENGTHS_S[-1]} s and more"]
        counts = np.bincount(classes, minlength=len(names))
        hours = np.bincount(classes, seconds, minlength=len(names)) / 3600
        rows = zip(names, counts.tolist(), hours.tolist(), strict=True)
        return [(name, count, hours) for name, count, hours in rows if count]

    def quantiles_s(self) -> dict[str, float]:
        """Return shortest, 5 %, median, 95 % and longest length."""
        seconds = np.quantile(np.frombuffer(self.seconds, dtype=np.float32), QUANTILES)
        return {f"{share:g}": round(float(value), 3) for share, value in zip(QUANTILES, seconds, strict=True)}

    def to_dict(self) -> dict[str, object]:
        """Return the summary for JSON."""
        histogram = [
            {"length": name, "utterances": count, "hours": round(hours, 4)} for name, count, hours in self.lengths()
        ]
        return {
            "utterances": len(self.seconds),
            "hours": round(self.hours, 4),
            "speakers": self.speakers,
            "languages": {language: speech.to_dict() for language, speech in sorted(self.languages.items())},
            "quantiles_s": self.quantiles_s(),
            "lengths": histogram,
        }


def summarise(paths: Sequence[Path]) -> Summary:
    """Return the statistics of manifests, or indexes of shards.

    Raises:
        ManifestError: if a file is missing or has a bad line, or there are no lines.
    """
    summary = Summary()
    for path in paths:
        for number, _, line in LineFile(path, LINES).lines():
            item = parse_utterance(line, path, number)
            summary.languages[item.source_lang].add(item)
            summary.seconds.append(item.duration_s)
    if not summary.seconds:
        raise ManifestError(f"{', '.join(map(str, paths))}: no lines; expected one JSON object a line")
    return summary
