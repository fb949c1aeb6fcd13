"""Audio of a stream that has come and waits to be heard, bounded in seconds: who puts more in has to wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
LEAST_S = 0.001  # of an item, so that items without audio are bounded too


@dataclass(frozen=True, slots=True)
class Arrived(Generic[Item]):
    """An item and its arrival."""

    item: Item
    seconds: float
    """Of audio."""
    at_s: float
    """On the monotonic clock."""

    @property
    def lag_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.at_s


class Inbox(Generic[Item]):
    """A queue between two tasks of one event loop."""

    def __init__(self, most_s: float) -> None:
        """Take at most some seconds of audio at once, or one longer item."""
        self._most_s = most_s
        self._items: deque[Arrived[Item]] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self.waiting_s = 0.0
        """Seconds of audio that wait."""

    async def put(self, item: Item, seconds: float = 0.0) -> None:
        """Wait for room and add an item of some seconds of audio; after the end it is dropped."""
        arrived = Arrived(item, max(seconds, LEAST_S), time.monotonic())
        while self._items and self.waiting_s + arrived.seconds > self._most_s and not self._ended:
            await self._change()
        if not self._ended:
            self._items.append(arrived)
            self.waiting_s += arrived.seconds
            self._changed.set()

    def end(self) -> None:
        """Take no more items; those that wait can still be taken out."""
        self._ended = True
        self._changed.set()

    async def get(self) -> Arrived[Item] | None:
        """Wait for the next item; None at the end."""
        while not self._items:
            if self._ended:
                return None
            await self._change()
        arrived = self._items.popleft()
        self.waiting_s = sum(one.seconds for one in self._items) if self._items else 0.0
        self._changed.set()
        return arrived

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
