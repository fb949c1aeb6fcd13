"""Live sessions in asyncio: the same events, waits that can be cancelled, errors, and no thread that is left."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.runtime import Event, LiveSession, SegmentEvent, TextEvent, stream
from bestow_edge.runtime.model import Model

PATIENCE_S = 60  # only a failing test waits for so long
BLOCK = np.full(250, 0.5, dtype=np.float32)


class Counting:
    """A session that answers every block with two numbered events, and the end with one."""

    sample_rate_hz = 1000

    def __init__(self, fails: bool = False) -> None:
        self._fails, self._count = fails, 0

    def feed(self, samples: npt.NDArray[np.float32]) -> Sequence[Event]:
        if self._fails:
            raise ZeroDivisionError(f"the graph broke at {samples.size} samples")
        return [self._next(), self._next()]

    def finish(self) -> Sequence[Event]:
        return [self._next()]

    def _next(self) -> Event:
        self._count += 1
        return SegmentEvent("start", self._count - 1, 0.0)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *how: Any) -> None:
        pass


async def read(live: LiveSession) -> list[int]:
    return [event.segment async for event in live]


async def until_it_waits(live: LiveSession) -> None:
    while not live._work._waiters:
        await asyncio.sleep(0.001)


def run(main: Any) -> Any:
    """Run a coroutine, and check that it leaves no thread."""
    before = set(threading.enumerate())
    result = asyncio.run(asyncio.wait_for(main, PATIENCE_S))
    assert set(threading.enumerate()) == before
    return result


def test_the_events_are_those_of_the_session(pausing_model: Model, speech: npt.NDArray[np.float32]) -> None:
    blocks = np.split(speech[:32000], range(1600, 32000, 1600))
    want = list(stream(pausing_model.session(source="de", k=1, l=2, lookahead=1), iter(blocks)))

    async def main() -> list[Event]:
        with LiveSession(pausing_model.session(source="de", k=1, l=2, lookahead=1), max_events=1) as live:
            reader = asyncio.create_task(collect(live))
            for block in blocks:
                live.feed(block)
                await asyncio.sleep(0)
            live.finish()
            return await reader

    async def collect(live: LiveSession) -> list[Event]:
        return [event async for event in live]

    assert run(main()) == want
    assert len(want) > 5


def test_the_loop_stays_free_and_only_the_session_has_a_thread() -> None:
    async def main() -> list[int]:
        before = threading.active_count()
        with LiveSession(Counting()) as live:
            readers = [asyncio.create_task(read(live)) for _ in range(20)]
            await until_it_waits(live)
            assert threading.active_count() == before + 1
            for _ in range(100):
                live.feed(BLOCK)
                await asyncio.sleep(0)
            live.finish()
            return sorted(number for numbers in await asyncio.gather(*readers) for number in numbers)

    assert run(main()) == list(range(201))  # each event went to one reader


def test_a_cancelled_wait_takes_no_event() -> None:
    async def main() -> list[int]:
        with LiveSession(Counting()) as live:
            reader = asyncio.create_task(read(live))
            await until_it_waits(live)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert not live._work._waiters
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(live), 0.01)
            live.feed(BLOCK)
            live.finish()
            first = await anext(live)
            return [first.segment, *await read(live), *await read(live)]

    assert run(main()) == [0, 1, 2]


def test_closing_ends_a_wait() -> None:
    async def main() -> list[int]:
        live = LiveSession(Counting())
        reader = asyncio.create_task(read(live))
        await until_it_waits(live)
        live.close()
        return await reader

    assert run(main()) == []


def test_an_error_reaches_the_reader() -> None:
    async def main() -> None:
        with LiveSession(Counting(fails=True)) as live:
            reader = asyncio.create_task(read(live))
            await until_it_waits(live)
            live.feed(BLOCK)
            with pytest.raises(ZeroDivisionError, match="the graph broke"):
                await reader

    run(main())


def test_the_thread_outlives_a_closed_loop() -> None:
    live = LiveSession(Counting())
    loop = asyncio.new_event_loop()
    wait = loop.create_task(live.__anext__())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(until_it_waits(live))
    waiter = next(iter(live._work._waiters))
    loop.call_soon(wait.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(wait)
    loop.close()
    live._work._waiters.add(waiter)  # as of a loop that was closed while a task waited
    live.feed(BLOCK)
    live.finish()
    assert [event.segment for event in live] == [0, 1, 2]
    live.close()


def test_events_are_json() -> None:
    text = TextEvent(" ja", (5, 6), (-0.25, -0.5), 1.23456, 2.0, 3.0, segment=2, prompt=1)
    assert text.to_dict() == {
        "event": "text",
        "text": " ja",
        "start_s": 1.235,
        "end_s": 2.0,
        "heard_s": 3.0,
        "log_prob": -0.75,
        "segment": 2,
        "prompt": 1,
    }
    assert SegmentEvent("end", 4, 1.23456).to_dict() == {"event": "segment-end", "segment": 4, "time_s": 1.235}
