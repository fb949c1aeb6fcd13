"""A session on a thread of its own: audio goes in from any thread, events come out, both through bounded queues.

A block of audio that does not fit into its queue is refused with an error, and no part of it is taken: audio is never
dropped silently.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError, BacklogError, ConfigError, SessionError
from bestow_edge.runtime.audio.samples import check_block
from bestow_edge.runtime.stream.events import Event

if TYPE_CHECKING:
    import asyncio

WAIT_S = 0.5  # Windows lets Ctrl-C through between waits only, so no wait is longer

logger = logging.getLogger(__name__)


class AudioSession(Protocol):
    """The session that a live session runs: a `Session`, a `Tracer`, or another class with these methods."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the samples."""

    def feed(self, samples: npt.NDArray[np.float32], /) -> Sequence[Event]:
        """Hear a block of shape (samples,)."""

    def finish(self) -> Sequence[Event]:
        """End the audio."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class LiveSession:
    """Runs a session on a thread of its own. Feed it from any thread, read its events in any other or in asyncio.

        with be.LiveSession(model.session(source="en")) as live:
            live.feed(block)  # returns at once
            live.finish()
            for event in live: print(event.text, end="")  # in a coroutine: async for

    The text is the one that the session writes for the same blocks. Leaving the `with` block closes it, see `close`.
    One that nobody refers to any more is closed too, and so are all that are left when the program ends.
    """

    def __init__(self, session: AudioSession, *, max_audio_s: float = 30.0, max_events: int = 1000) -> None:
        """Start the thread, which waits for audio.

        Args:
            session: a fresh session. The thread owns it and closes it at the end.
            max_audio_s: most seconds of audio that may wait, including the block that is being processed.
            max_events: most events that may wait to be read; at this limit the thread waits, and so does the audio.

        Raises:
            ConfigError: if a limit is not positive or not finite.
        """
        if not 0 < max_audio_s < math.inf or max_events < 1:
            got = f"max_audio_s {max_audio_s}, max_events {max_events}"
            raise ConfigError(f"{got}: expected a positive number of seconds and at least 1 event")
        self._work = _Work(session, max_audio_s, max_events)
        self._finalizer = weakref.finalize(self, self._work.stop)  # the thread refers to the work, not to `self`
        self._finalizer.atexit = False  # `_end_all` waits for the threads too
        self._work.thread.start()

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finalizer.detach()
        self._work.end()
        if kind is None:
            self._work.raise_unraised()

    def feed(self, samples: npt.NDArray[np.float32], timeout_s: float = 0.0) -> None:
        """Put a copy of a block into the queue, whole or not at all.

        Args:
            samples: (samples,) float32 mono at the session's rate, full scale 1, at most `max_audio_s` of them.
            timeout_s: seconds to wait for room; `math.inf` waits without a limit.

        Raises:
            BacklogError: if the block does not fit; feed it again later or drop it.
            AudioError: if `Session.feed` would refuse the block, or it is longer than the queue.
            SessionError: if the live session was finished or closed.
            BaseException: if the thread has failed: its exception.
        """
        self._work.feed(samples, timeout_s)

    def finish(self) -> None:
        """End the audio and return at once; the remaining events still come.

        Raises:
            SessionError: if the live session was finished or closed before.
            BaseException: if the thread has failed: its exception.
        """
        self._work.finish()

    def __iter__(self) -> Iterator[Event]:
        """Return itself: a second loop continues where the first one stopped."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event and return it; the iteration ends after the last one.

        Raises:
            BaseException: if the thread has failed: its exception, after the events before it.
        """
        event = self._work.next_event()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        """Return itself: a second loop continues where the first one stopped."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event as `__next__` does, without a thread that waits; a cancelled wait takes no event.

        Raises:
            BaseException: if the thread has failed: its exception, after the events before it.
        """
        event = await self._work.next_event_async()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """Wait for the block that is being processed, end the thread, close the session; a second call does nothing.

        Audio that still waits is discarded with a warning: to get the whole text, call `finish` and read all events
        first. Events that wait can still be read.

        Raises:
            BaseException: if the thread has failed and no call has raised it yet: its exception.
        """
        self.__exit__(None, None, None)

    @property
    def waiting_s(self) -> float:
        """Seconds of audio that wait, including the block in process; at 0 all events of the audio are there."""
        return self._work.waiting_s


class _Work:
    """The thread of a live session, and what it shares with the callers."""

    def __init__(self, session: AudioSession, max_audio_s: float, max_events: int) -> None:
        self._session = session
        self._max_samples, self._max_events = round(max_audio_s * session.sample_rate_hz), max_events
        self._changed = threading.Condition()  # guards every attribute below
        self._blocks: deque[npt.NDArray[np.float32] | None] = deque()  # None: end of audio; the first is in process
        self._waiting_samples = 0
        self._events: deque[Event] = deque()
        self._waiters: set[asyncio.Future[None]] = set()  # of coroutines that wait for an event
        self._finished = self._closed = self._stopped = False  # set by `finish`, by `close`, by the thread at its end
        self._failure: tuple[BaseException, TracebackType | None] | None = None
        self._raised = False  # whether the caller got the failure
        self.thread = threading.Thread(target=self._run, name="bestow-edge live session", daemon=True)
        _alive.add(self)

    def feed(self, samples: npt.NDArray[np.float32], timeout_s: float) -> None:
        """See `LiveSession.feed`."""
        check_block(samples)
        if samples.size > self._max_samples:
            got, most = self._seconds(samples.size), self._seconds(self._max_samples)
            raise AudioError(f"audio block of {got:.2f} s is longer than max_audio_s {most:.2f}; cut it, or raise that")
        most_waiting = self._max_samples - samples.size
        with self._changed:
            fits = self._wait(lambda: self._waiting_samples <= most_waiting or not self._open, timeout_s)
            self._check_open()
            if not fits:
                raise self._backlog(samples.size)
            if samples.size:  # empty blocks have no limit, so they are not stored
                self._blocks.append(samples.copy())
                self._waiting_samples += samples.size
                self._changed.notify_all()

    def finish(self) -> None:
        """See `LiveSession.finish`."""
        with self._changed:
            self._check_open()
            self._finished = True
            self._blocks.append(None)
            self._changed.notify_all()

    def next_event(self) -> Event | None:
        """Wait for the next event; None after the last one."""
        with self._changed:
            self._wait(lambda: self._readable)
            return self._take_event()

    async def next_event_async(self) -> Event | None:
        """Wait for the next event in an event loop; None after the last one."""
        from asyncio import get_running_loop  # costs 50 ms at the start of programs without asyncio

        while True:
            with self._changed:
                if self._readable:
                    return self._take_event()
                waiter: asyncio.Future[None] = get_running_loop().create_future()
                self._waiters.add(waiter)
            try:
                await waiter
            finally:
                with self._changed:
                    self._waiters.discard(waiter)

    def stop(self) -> None:
        """Let the thread end behind the block that it processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Stop the thread and wait for its end."""
        self.stop()
        while self.thread.is_alive():
            self.thread.join(WAIT_S)

    def raise_unraised(self) -> None:
        """Raise what ended the thread, unless a call has raised it."""
        if not self._raised:
            self._raise_failure()

    @property
    def waiting_s(self) -> float:
        """See `LiveSession.waiting_s`."""
        return self._seconds(self._waiting_samples)

    def _run(self) -> None:
        """Run in the thread: process blocks until the audio ends, the live session is closed or the session fails."""
        try:
            with self._session:
                for block in self._next_blocks():
                    self._deliver(self._session.finish() if block is None else self._session.feed(block))
        except BaseException as error:  # noqa: BLE001 - producer and reader raise it again
            self._failure = error, error.__traceback__
        finally:
            with self._changed:
                self._stopped = True
                self._tell_readers()

    def _next_blocks(self) -> Iterator[npt.NDArray[np.float32] | None]:
        """Yield each block, and None at the end; a block counts as waiting until the next one is requested."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._blocks or self._closed)
                if self._closed:
                    if self._blocks:
                        left_s = self.waiting_s
                        logger.warning("live session: closed before its end, with %.2f s of audio left to hear", left_s)
                    return
                block = self._blocks[0]
            yield block
            with self._changed:
                self._blocks.popleft()
                if block is None:
                    return
                self._waiting_samples -= block.size
                self._changed.notify_all()

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            with self._changed:
                self._changed.wait_for(lambda: not self._unread or self._closed)
                self._events.append(event)
                self._tell_readers()

    def _tell_readers(self) -> None:
        """Wake the threads and the coroutines that wait for an event."""
        self._changed.notify_all()
        for waiter in self._waiters:
            with suppress(RuntimeError):  # its event loop was closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def _take_event(self) -> Event | None:
        if self._events:
            self._changed.notify_all()
            return self._events.popleft()
        self._raise_failure()
        return None

    def _wait(self, ready: Callable[[], bool], timeout_s: float = math.inf) -> bool:
        """Release the lock until a condition holds or the time is over; return whether it holds."""
        end_s = time.monotonic() + timeout_s
        while not ready():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._changed.wait(min(left_s, WAIT_S))
        return True

    @property
    def _readable(self) -> bool:
        """Whether a reader need not wait."""
        return bool(self._events) or self._stopped

    @property
    def _unread(self) -> bool:
        """Whether the queue of events is full."""
        return len(self._events) >= self._max_events

    @property
    def _open(self) -> bool:
        return not (self._failure or self._finished or self._closed)

    def _check_open(self) -> None:
        self._raise_failure()
        if not self._open:
            how = "closed" if self._closed else "finished"
            raise SessionError(f"the live session was {how}; open a new one with LiveSession(model.session(...))")

    def _raise_failure(self) -> None:
        if self._failure:
            self._raised = True
            error, trace = self._failure
            raise error.with_traceback(trace)  # otherwise each raise would make its traceback longer

    def _backlog(self, num_samples: int) -> BacklogError:
        if self._unread:
            why = f"{len(self._events)} events wait to be read; iterate over the live session in another thread"
        else:
            why = "computing does not keep up; feed slower (timeout_s waits), raise max_audio_s or take a smaller model"
        waiting = f"{self.waiting_s:.2f} s wait, max_audio_s is {self._seconds(self._max_samples):.2f}"
        return BacklogError(f"audio block of {self._seconds(num_samples):.2f} s does not fit: {waiting}; {why}")

    def _seconds(self, num_samples: int) -> float:
        return num_samples / self._session.sample_rate_hz


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


_alive: weakref.WeakSet[_Work] = weakref.WeakSet()


def _end_all() -> None:
    """End the threads that are left when the program ends: the interpreter would cut them off within a graph."""
    left = list(_alive)
    for work in left:
        work.stop()
    for work in left:
        if work.thread.is_alive():
            work.end()


atexit.register(_end_all)
