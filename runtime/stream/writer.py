"""The texts of one segment as events: complete characters, each once, with their times in the stream."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from bestow_edge.runtime.stream.answer import Word
from bestow_edge.runtime.stream.events import SegmentEvent, TextEvent
from bestow_edge.runtime.stream.text import Detokenizer


class Clock:
    """Times of a segment's steps in the stream, without the silence that is put around it."""

    def __init__(self, step_s: float, silence_s: float) -> None:
        """Begin with a segment that starts with so much silence; a step has `step_s` seconds."""
        self.base_s, self.end_s = -silence_s, math.inf
        self._step_s = step_s

    def __call__(self, step: int) -> float:
        """Return the time at which a step begins, seconds, between 0 and the end of the audio."""
        return min(max(0.0, self.base_s + step * self._step_s), self.end_s)


class Writer:
    """Turns the words of a segment's answers into events."""

    def __init__(self, tokenizer: Tokenizer, clock: Clock, heard_again: Sequence[bool]) -> None:
        """Begin the first segment.

        Args:
            tokenizer: of the bundle.
            clock: times of the steps.
            heard_again: for each prompt, whether the segment may begin with words that the segment before has written.
        """
        self._tokenizer, self._time_s, self._heard_again = tokenizer, clock, heard_again
        self.written_s = [0.0] * len(heard_again)
        """End of the last word of each text in the stream, seconds."""
        self.begin(0)

    def begin(self, segment: int) -> None:
        """Begin another segment."""
        self._segment, self.started = segment, False
        """Whether the segment has text."""
        self._detokenizers = [Detokenizer(self._tokenizer, self.prefix) for _ in self._heard_again]
        self._unwritten: list[list[Word]] = [[] for _ in self._heard_again]  # words whose characters are incomplete
        self._skip_s = [end_s if again else 0.0 for again, end_s in zip(self._heard_again, self.written_s, strict=True)]

    @property
    def prefix(self) -> str:
        """Prefix of the segment's first text."""
        return " " if self._segment else ""

    def add(self, row: int, word: Word) -> Iterator[SegmentEvent | TextEvent]:
        """Yield the text that a word completes. A word that the segment before has written is left out."""
        if (self._time_s(word.first_step) + self._time_s(word.end_step)) / 2 < self._skip_s[row]:
            return
        self.written_s[row] = max(self.written_s[row], self._time_s(word.end_step))
        words = self._unwritten[row]
        words.append(word)
        text = self._detokenizers[row].push(word.token_id)
        if not text:
            return
        self._unwritten[row] = []
        start_s = self._time_s(words[0].first_step)
        if not self.started:
            self.started = True
            yield SegmentEvent("start", self._segment, start_s)
        yield TextEvent(
            text=text,
            token_ids=tuple(item.token_id for item in words),
            log_probs=tuple(item.log_prob for item in words),
            start_s=start_s,
            end_s=self._time_s(word.end_step),
            heard_s=self._time_s(word.visible_steps),
            segment=self._segment,
            prompt=row,
        )

    def end(self) -> Iterator[SegmentEvent]:
        """Yield the end of the segment if it has text."""
        if self.started:
            yield SegmentEvent("end", self._segment, max(self.written_s))
