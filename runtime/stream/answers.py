"""The texts and questions of one segment together: who is tried next, and whether the segment ends.

Texts say what is said, so their words tell where a segment is full, paused or over. The words of answers lie anywhere:
questions follow the texts beside them, and pace themselves where there are none. It keeps the books of all rows and
knows tracks and limits, not graphs, audio or events.
"""

from __future__ import annotations

from collections.abc import Sequence

from bestow_edge.runtime.stream.answer import Track
from bestow_edge.runtime.stream.segments import Limits

SILENCE_STEPS = 125  # 10 s: how often a segment without any text begins anew; each time hears a second again


class Rows:
    """All tracks of a segment, in the order of the prompts."""

    def __init__(self, tracks: Sequence[Track], limits: Limits, *, first: bool) -> None:
        """Take fresh tracks.

        Args:
            tracks: one for each prompt.
            limits: when segments end.
            first: whether nothing was said in any segment before.
        """
        self.tracks, self._limits, self._first = tracks, limits, first
        self._texts = [track for track in tracks if not track.question]
        self._pacing = self._texts or tracks

    def wanted(self, available: int, *, ended: bool) -> list[int | None]:
        """Return the steps that each track is tried with now, None for those that have to wait.

        Questions that are asked when everything has been heard wait for the texts beside them, and are not asked about
        a rest of the audio without words.
        """
        wanted = [track.wants(available, ended=ended) for track in self.tracks]
        busy = any(not track.question for track, steps in zip(self.tracks, wanted, strict=True) if steps is not None)
        if busy or not (self._first or self._spoken):
            return [None if track.held else steps for track, steps in zip(self.tracks, wanted, strict=True)]
        return wanted

    def unanswered(self) -> list[int]:
        """Return the rows of questions to be answered now that the segment ends: none if nothing new was said in it."""
        return [row for row, track in enumerate(self.tracks) if track.question and not track.done and self._spoken]

    @property
    def _spoken(self) -> bool:
        """Whether there is something to ask about, as far as texts tell."""
        return not self._texts or any(track.said for track in self._texts)

    def full(self) -> bool:
        """Say whether a text has reached the limit and every text has said something to begin anew behind."""
        longest = max((len(track.words) for track in self._texts), default=0)
        return longest >= self._limits.most_tokens and all(track.words or track.done for track in self._texts)

    def full_end(self) -> int:
        """Return the step behind what every text has said; no speech has more than a token a step."""
        return max(min(self.word_ends()), self._limits.most_tokens)

    def paused(self) -> bool:
        """Say whether every text has had nothing to add for the length of a pause."""
        quiet = min(track.silent_until - track.silent_since for track in self._pacing)
        spoken = any(track.words for track in self.tracks)
        enough = self._limits.pause_steps if spoken else max(self._limits.pause_steps, SILENCE_STEPS)
        return bool(self._limits.pause_steps) and quiet >= enough

    def quiet_since(self) -> int:
        """Return the step up to which every text has had nothing to add."""
        return min(track.silent_until for track in self._pacing)

    def ended_early(self, heard: int) -> bool:
        """Say whether every text ended longer before the end of the audio, `heard` steps, than a pause lasts."""
        ends = self.heard_ends()
        everywhere = bool(ends) and len(ends) == len(self._texts) and bool(self._limits.pause_steps)
        return everywhere and heard - max(ends) >= self._limits.pause_steps

    def word_ends(self) -> list[int]:
        """Return the step behind the last word of each text that has one."""
        return [track.words[-1].end_step for track in self._texts if track.words]

    def heard_ends(self) -> list[int]:
        """Return the step behind all words of each text that has any; a translation's last word may be said first."""
        return [max(word.end_step for word in track.words) for track in self._texts if track.words]
