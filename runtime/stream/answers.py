"""All answers of a segment: the answers to try next, and the conditions that end the segment.

The words of a text follow the speech, so they show that a segment is full, paused or over. The words of an answer to a
question attend anywhere: such answers follow the texts beside them; without texts they decide about the segment.
"""

from __future__ import annotations

from collections.abc import Sequence

from bestow_edge.runtime.stream.answer import Answer
from bestow_edge.runtime.stream.segments import Limits

SILENCE_STEPS = 125  # 10 s: a segment without text begins anew this often; each time it hears a second again


class Answers:
    """All answers of a segment, in the order of the prompts."""

    def __init__(self, answers: Sequence[Answer], limits: Limits, *, first: bool) -> None:
        """Take fresh answers, one for each prompt; `first` = no segment before had words."""
        self.all, self._limits, self._first = answers, limits, first
        self._texts = [answer for answer in answers if not answer.question]
        self._pacing = self._texts or answers

    def wanted(self, available: int, *, ended: bool) -> list[int | None]:
        """Return the visible steps of each answer's next attempt, None for an answer that has to wait.

        Answers to questions at the end of the audio wait for the texts beside them, and there is no answer about a
        rest of the audio without words.
        """
        wanted = [answer.wants(available, ended=ended) for answer in self.all]
        busy = any(not answer.question for answer, steps in zip(self.all, wanted, strict=True) if steps is not None)
        if busy or not (self._first or self._spoken):
            return [None if answer.held else steps for answer, steps in zip(self.all, wanted, strict=True)]
        return wanted

    def unanswered(self) -> list[int]:
        """Return the rows of the questions to answer at the end of the segment, empty if it had no new words."""
        return [row for row, answer in enumerate(self.all) if answer.question and not answer.done and self._spoken]

    @property
    def _spoken(self) -> bool:
        """Whether a text has new words, or there are no texts."""
        return not self._texts or any(answer.has_text for answer in self._texts)

    def full(self) -> bool:
        """Return whether a text has reached the limit and every text has a word behind which to begin anew."""
        longest = max((len(answer.words) for answer in self._texts), default=0)
        return longest >= self._limits.most_tokens and all(answer.words or answer.done for answer in self._texts)

    def full_end(self) -> int:
        """Return the step that the words of every text reach; speech has at most a token for each step."""
        return max(min(self.word_ends()), self._limits.most_tokens)

    def paused(self) -> bool:
        """Return whether no text has grown for the length of a pause."""
        quiet = min(answer.silent_until - answer.silent_since for answer in self._pacing)
        spoken = any(answer.words for answer in self.all)
        enough = self._limits.pause_steps if spoken else max(self._limits.pause_steps, SILENCE_STEPS)
        return bool(self._limits.pause_steps) and quiet >= enough

    def quiet_since(self) -> int:
        """Return the step up to which no text has grown."""
        return min(answer.silent_until for answer in self._pacing)

    def ended_early(self, heard: int) -> bool:
        """Return whether every text ended more than a pause before the end of the audio, which has `heard` steps."""
        ends = self.heard_ends()
        everywhere = bool(ends) and len(ends) == len(self._texts) and bool(self._limits.pause_steps)
        return everywhere and heard - max(ends) >= self._limits.pause_steps

    def word_ends(self) -> list[int]:
        """Return the step behind the last word of each text that has one."""
        return [answer.words[-1].end_step for answer in self._texts if answer.words]

    def heard_ends(self) -> list[int]:
        """Return the step behind all words of each text that has any; a translation's last word may be spoken first."""
        return [max(word.end_step for word in answer.words) for answer in self._texts if answer.words]
