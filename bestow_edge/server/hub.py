"""All sessions on one model: a bounded number of them, whose computing runs in pools of threads.

The event loop only moves bytes. A session gives the pool one block at a time, so that sessions take turns. Files have a
pool of their own: the end of a long file takes seconds, and no live stream waits behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import RefusedError, SessionError
from bestow_edge.core.request import Request
from bestow_edge.runtime.audio.resampling import StreamResampler
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import Event
from bestow_edge.runtime.stream.session import Session
from bestow_edge.server.limits import Limits
from bestow_edge.server.metrics import Metrics

Kind = Literal["stream", "file"]
Result = TypeVar("Result")
Samples = npt.NDArray[np.float32]
POLL_S = 0.05  # between two looks at the sessions that end


class PooledSession:
    """A session whose work runs in a pool. One task uses it."""

    def __init__(self, model: Model, pool: ThreadPoolExecutor, heard: Callable[[float], None]) -> None:
        """Take a place for a session; `open` opens it.

        Args:
            model: what it runs.
            pool: where it runs.
            heard: is called with the seconds of each block.
        """
        self._model, self._pool, self._heard = model, pool, heard
        self._session: Session | None = None
        self._resampler = StreamResampler(model.sample_rate_hz, model.sample_rate_hz)
        self._rate_hz = model.sample_rate_hz
        self.audio_s = 0.0
        """Seconds of audio fed so far."""
        self.working = False
        """Whether work runs or waits for its turn."""

    async def open(self, request: Request, rate_hz: int) -> None:
        """Open the session on audio of a rate, Hz; errors are those of `Model.open`."""
        self._rate_hz, self._resampler = rate_hz, StreamResampler(rate_hz, self._model.sample_rate_hz)
        self._session, self.audio_s = await self.run(lambda: self._model.open(request)), 0.0

    async def feed(self, samples: Samples) -> list[Event]:
        """Hear a block, (samples,) float32 at the rate of `open`; errors are those of `Session.feed`."""
        return await self.run(lambda: self._feed(samples))

    async def feed_next(self, blocks: Iterator[Samples]) -> list[Event] | None:
        """Decode and hear the next block; None at the end."""
        return await self.run(lambda: None if (block := next(blocks, None)) is None else self._feed(block))

    async def finish(self) -> list[Event]:
        """End the audio and return the rest of the events."""
        return await self.run(self._finish)

    def close(self) -> None:
        """Free the session's memory at once, though the errors of a lost client may refer to this object for long."""
        self._session = None

    async def drafts(self) -> list[str]:
        """Return for each prompt the text that would follow if the audio ended now."""
        session = self.opened
        return await self.run(lambda: [session.draft(row) for row in range(len(session.prompts))])

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work in the pool. A cancelled task waits for its end: nobody may close what the work still uses."""
        job = self._pool.submit(work)
        result = asyncio.wrap_future(job)
        self.working = True
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            job.cancel()  # does nothing to work that has begun
            while not job.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([result])
            raise
        finally:
            self.working = False

    @property
    def opened(self) -> Session:
        """The session; SessionError if it was not opened. Keep no reference to it, see `close`."""
        if self._session is None:
            raise SessionError("the session was not opened; call open first")
        return self._session

    def _feed(self, samples: Samples) -> list[Event]:
        seconds = len(samples) / self._rate_hz
        events = self.opened.feed(self._resampler.feed(samples))
        self.audio_s += seconds
        self._heard(seconds)
        return events

    def _finish(self) -> list[Event]:
        events = self.opened.feed(self._resampler.finish())
        return events + self.opened.finish()


class Hub:
    """A model with its sessions."""

    def __init__(self, model: Model, *, name: str, limits: Limits) -> None:
        """Start the pools.

        Args:
            model: loaded with one thread for each operator, since sessions share the cores.
            name: its name for clients.
            limits: what clients may use.
        """
        self.model, self.name, self.limits = model, name, limits
        self.metrics = Metrics()
        self.stopping = False
        """Whether new sessions are refused, because the server stops."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pools: dict[Kind, ThreadPoolExecutor] = {
            "stream": ThreadPoolExecutor(workers, "bestow-edge stream"),
            "file": ThreadPoolExecutor(max(1, workers // 2), "bestow-edge file"),
        }
        self._most: dict[Kind, int] = {"stream": limits.sessions, "file": limits.files}
        self._taken: Counter[Kind] = Counter()
        self._ends: set[Callable[[], None]] = set()
        for kind in self._pools:
            self.metrics.watch(kind, lambda kind=kind: self._taken[kind])  # type: ignore[misc]  # the default binds it

    def taken(self, kind: Kind) -> int:
        """Return the number of sessions of a kind."""
        return self._taken[kind]

    @asynccontextmanager
    async def place(self, kind: Kind) -> AsyncIterator[PooledSession]:
        """Yield a session to open; its place is free again at the end.

        Raises:
            RefusedError: all places are taken, or the server stops.
        """
        if self.stopping:
            raise RefusedError("the server stops; try again in a minute", status=503, code=1012)
        if self._taken[kind] >= self._most[kind]:
            most = f"{self._most[kind]} {kind}{'s' if self._most[kind] > 1 else ''}"
            raise RefusedError(f"the server is busy: it serves {most} at once; try again later", status=503, code=1013)
        self._taken[kind] += 1
        session = PooledSession(self.model, self._pools[kind], self.metrics.audio_s.labels(kind).inc)
        try:
            self.metrics.sessions.labels(kind).inc()
            yield session
        finally:
            session.close()
            self._taken[kind] -= 1

    @contextmanager
    def ended_by_stop(self, end: Callable[[], None]) -> Iterator[None]:
        """Call a function in the event loop if the server stops during a `with` block."""
        self._ends.add(end)
        if self.stopping:
            end()
        try:
            yield
        finally:
            self._ends.discard(end)

    async def stop(self, hurried: Callable[[], bool]) -> None:
        """Refuse new sessions, end the audio of open streams, and wait until their text is written.

        The wait ends early when `stop_s` is over, or when somebody is hurried.
        """
        self.stopping = True
        for end in list(self._ends):
            end()
        end_s = asyncio.get_running_loop().time() + self.limits.stop_s
        while any(self._taken.values()) and asyncio.get_running_loop().time() < end_s and not hurried():
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Drop all work that has not begun."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
