"""The attempts of the last rehearsal: an attempt for the same text and speech takes its result instead of a run.

Under local agreement a session rehearses the rest of an answer for each draft, and then asks for the first tokens of
that draft once more. Their keys and values are still in the caches, behind the committed ones. A run may attempt
several tokens at once: those behind guessed ones, whose results are taken as long as the text goes on as guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from bestow_edge.runtime.decoders.base import Attempt

Path = list[tuple[Hashable, list[Attempt]]]
"""Attempts of all rows by key, of one token behind another."""


class Rehearsed:
    """Attempts along one path of tokens, followed from its begin without gaps.

    So a key needs the number of tokens, the last token and the visible steps of each row. When speech or rows change,
    call `forget`.
    """

    def __init__(self) -> None:
        self._path: Path = []
        self._next = 0  # the attempts before it led to the text as it is now
        self._depth = 0  # of rehearsals

    def attempt(self, key: Hashable, run: Callable[[], Path]) -> list[Attempt]:
        """Return the attempts that a rehearsal made for a key, else the first ones of a run, all of which it keeps."""
        for place in (self._next - 1, self._next):  # the last one again, or the one behind its token
            if 0 <= place < len(self._path) and self._path[place][0] == key:
                self._next = place + 1
                return self._path[place][1]
        if not self._depth:
            self.forget()
            return run()[0][1]
        del self._path[self._next :]  # the run overwrites their keys and values
        self._path += run()
        self._next += 1
        return self._path[self._next - 1][1]

    @property
    def running(self) -> bool:
        """Whether a rehearsal has begun."""
        return self._depth > 0

    def forget(self) -> None:
        """Forget all attempts."""
        self._path.clear()
        self._next = 0

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Keep the attempts of a `with` block, and go back at its end to the text before it."""
        before = self._next
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._next = min(before, len(self._path))
