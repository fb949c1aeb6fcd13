"""The attempts of the last rehearsal: an attempt for the same text and speech takes its result instead of a run.

Under local agreement a session rehearses the rest of an answer for each draft, and then asks for the first tokens of
that draft once more. Their keys and values are still in the caches, behind the committed ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from bestow_edge.runtime.decoders.base import Attempt


class Rehearsed:
    """Attempts along one path of tokens. A key names texts and visible steps of all rows; speech must not change."""

    def __init__(self) -> None:
        self._path: list[tuple[Hashable, list[Attempt]]] = []
        self._next = 0  # the attempts before it led to the text as it is now
        self._depth = 0  # of rehearsals

    def find(self, key: Hashable) -> list[Attempt] | None:
        """Return the attempts that were made for a key, or None; then all that a run will overwrite is forgotten."""
        for place in (self._next - 1, self._next):  # the last one again, or the one behind its token
            if 0 <= place < len(self._path) and self._path[place][0] == key:
                self._next = place + 1
                return self._path[place][1]
        if self._depth:
            del self._path[self._next :]
        else:
            self.forget()
        return None

    def keep(self, key: Hashable, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Keep and return the attempts of a run. Outside of rehearsals nothing is kept."""
        if self._depth:
            self._path.append((key, list(attempts)))
            self._next = len(self._path)
        return list(attempts)

    def forget(self) -> None:
        """Forget all, because speech or rows changed."""
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
