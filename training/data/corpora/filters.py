"""Filters: which utterances are dropped, for which reason, and how much audio that is.

A reason is a phrase that follows a number in the report: "12 longer than 40 s".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.prompts import parse_pair
from bestow_edge.core.utterances import Utterance
from bestow_edge.training.recipe.data import FilterRecipe, SourceRecipe


@dataclass(slots=True)
class Report:
    """Size of a source, and the lines dropped from it."""

    name: str
    """Name of the source."""
    lines: int = 0
    """Lines read."""
    seconds: float = 0.0
    """Seconds of audio in these lines."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Lines dropped, by reason."""
    dropped_s: dict[str, float] = field(default_factory=dict)
    """Seconds dropped, by reason."""

    @property
    def kept(self) -> int:
        """Lines kept."""
        return self.lines - sum(self.dropped.values())

    @property
    def kept_s(self) -> float:
        """Seconds kept."""
        return self.seconds - sum(self.dropped_s.values())

    def drop(self, reason: str, seconds: float = 0.0, lines: int = 1) -> None:
        """Count dropped lines."""
        self.dropped[reason] = self.dropped.get(reason, 0) + lines
        self.dropped_s[reason] = self.dropped_s.get(reason, 0.0) + seconds

    def check_left(self) -> None:
        """Check that lines are left.

        Raises:
            ManifestError: if all were dropped.
        """
        if not self.kept:
            raise ManifestError(f"{self.sentence()}; nothing is left to train on")

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons and their numbers of lines, the most frequent first."""
        return sorted(self.dropped.items(), key=lambda reason: -reason[1])

    def sentence(self) -> str:
        """Return the report for a log."""
        hours = f" ({self.kept_s / 3600:.2f} of {self.seconds / 3600:.2f} h)" if self.seconds else ""
        unit = "utterances" if self.seconds else "lines"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons())
        return f"source {self.name}: {self.kept} of {self.lines} {unit} kept{hours}; dropped: {reasons or 'none'}"

    def to_dict(self) -> dict[str, object]:
        """Return the report for JSON."""
        reasons = {
            reason: {"lines": count, "hours": round(self.dropped_s[reason] / 3600, 4)}
            for reason, count in self.reasons()
        }
        hours = {"hours": round(self.seconds / 3600, 4), "hours_kept": round(self.kept_s / 3600, 4)}
        return {"source": self.name, "lines": self.lines, "kept": self.kept, **hours, "dropped": reasons}


class Sieve:
    """Decides which utterances of a source are kept."""

    def __init__(
        self, source: SourceRecipe, limits: FilterRecipe, pairs: Sequence[str], *, needs_transcript: bool
    ) -> None:
        """Store the settings. `pairs` are the model's; `needs_transcript` = a loss of a stage is on the transcript."""
        self.source, self.limits, self.needs_transcript = source, limits, needs_transcript
        wanted = source.pairs or tuple(pairs)
        self.pairs = tuple(pair for pair in map(parse_pair, wanted) if pair.task in source.tasks)

    def reason(self, item: Utterance) -> str | None:
        """Return the reason for dropping an utterance, None if it is kept."""
        limits = self.limits
        if limits.languages and item.source_lang not in limits.languages:
            return "in other languages"
        if item.duration_s < limits.min_s:
            return f"shorter than {limits.min_s:g} s"
        if item.duration_s > limits.max_s:
            return f"longer than {limits.max_s:g} s"
        return self._task_reason(item) or self._text_reason(item)

    def _task_reason(self, item: Utterance) -> str | None:
        if not self.served(item):
            return "without a text for any task"
        if self.needs_transcript and item.transcript is None:
            return "without a transcript, which a loss of a stage needs"
        if self.source.word_times == "manifest" and not item.word_times and item.transcript:
            return "without word times"
        return None

    def served(self, item: Utterance) -> bool:
        """Return whether an utterance has the texts of one of the source's tasks."""
        if "answer" in self.source.tasks and item.question:
            return True
        return any(pair.source == item.source_lang and pair.target in item.texts for pair in self.pairs)

    def _text_reason(self, item: Utterance) -> str | None:
        limits, text = self.limits, main_text(item)
        per_s = len(text) / item.duration_s
        if len(text.split()) < limits.min_words:
            return f"with fewer than {limits.min_words} words"
        if text and per_s < limits.min_chars_per_s:
            return f"with fewer than {limits.min_chars_per_s:g} characters a second"
        if limits.max_chars_per_s and per_s > limits.max_chars_per_s:
            return f"with more than {limits.max_chars_per_s:g} characters a second"
        return None


def main_text(item: Utterance) -> str:
    """Return the text that is filtered: the transcript, else a translation, else the answer."""
    return item.transcript if item.transcript is not None else next(iter(item.texts.values()), item.answer)
