"""Live sessions: the session's own events however fast it is fed, refusals that take nothing, errors, ends."""

import gc
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import AudioError, BacklogError, ConfigError, SessionError
from bestow_edge.runtime import Event, LiveSession, SegmentEvent, load, stream
from bestow_edge.runtime.live import AudioSession
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.session import Session

Floats = npt.NDArray[np.float32]
PATIENCE_S = 60  # only a failing test waits for so long
BLOCK = np.full(250, 0.5, dtype=np.float32)  # a quarter of a second for `Echo`
open_session = partial(Model.session, source="de", k=1, l=2, lookahead=1, segments=SegmentConfig(pause_s=0))


class Echo:
    """A session that answers every block with events numbered on."""

    sample_rate_hz = 1000

    def __init__(self, events_per_block: int = 1) -> None:
        self.heard: list[Floats] = []
        self.finished = self.closed = False
        self.on_feed: Callable[[], object] = int  # does nothing
        self.on_close: Callable[[], object] = int
        self._events_per_block = events_per_block
        self._said = 0

    def feed(self, samples: Floats) -> Sequence[Event]:
        self.on_feed()
        self.heard.append(samples)
        return [self._say() for _ in range(self._events_per_block)]

    def finish(self) -> Sequence[Event]:
        self.finished = True
        return [self._say()]

    def _say(self) -> Event:
        self._said += 1
        return SegmentEvent("start", self._said - 1, 0.0)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True
        self.on_close()


class Gate:
    """A session that hears nothing until it is opened."""

    def __init__(self, session: Session | Echo) -> None:
        self.session = session
        self.sample_rate_hz = session.sample_rate_hz
        self.reached, self.open = threading.Event(), threading.Event()

    def feed(self, samples: Floats) -> Sequence[Event]:
        self.reached.set()
        assert self.open.wait(PATIENCE_S)
        return self.session.feed(samples)

    def finish(self) -> Sequence[Event]:
        return self.session.finish()

    def __enter__(self) -> object:
        return self.session.__enter__()

    def __exit__(self, *how: Any) -> None:
        self.session.__exit__(*how)


def numbers(events: Sequence[Event]) -> list[int]:
    return [event.segment for event in events]


def cut(samples: Floats, size: int) -> list[Floats]:
    return np.split(samples, range(size, samples.size, size))


def listen(session: AudioSession, blocks: Sequence[Floats], **limits: Any) -> list[Event]:
    """Feed as fast as the queue takes it, from another thread, and return the events."""

    def play() -> None:
        for block in blocks:
            live.feed(block, timeout_s=math.inf)
        live.finish()

    with LiveSession(session, **limits) as live, ThreadPoolExecutor(1) as pool:
        played = pool.submit(play)
        events = list(live)
        played.result(PATIENCE_S)
    return events


def wait_until_unread(live: LiveSession) -> None:
    """Wait until as many events wait to be read as may."""
    with live._work._changed:
        assert live._work._changed.wait_for(lambda: live._work._unread, PATIENCE_S)


@pytest.mark.parametrize("limits", [{}, {"max_audio_s": 0.1, "max_events": 1}, {"max_audio_s": 3}])
@pytest.mark.parametrize("size", [1600, 777])
def test_the_events_are_those_of_the_session(
    pausing_model: Model, speech: Floats, size: int, limits: dict[str, Any]
) -> None:
    blocks = cut(speech[:48000], size)
    want = list(stream(open_session(pausing_model), iter(blocks)))
    assert len(want) > 10
    assert listen(open_session(pausing_model), blocks, **limits) == want


def test_many_share_a_model(pausing_model: Model, speech: Floats) -> None:
    streams = [cut(speech[start : start + 32000], 800) for start in range(0, 64000, 8000)]
    want = [list(stream(open_session(pausing_model), iter(blocks))) for blocks in streams]
    with ThreadPoolExecutor(len(streams)) as pool:
        got = list(pool.map(lambda blocks: listen(open_session(pausing_model), blocks, max_audio_s=0.2), streams))
    assert got == want
    assert len({tuple(events) for events in want}) == len(streams) == 8


def test_a_trace_is_complete_when_the_block_ends(pausing_model: Model, speech: Floats, tmp_path: Path) -> None:
    blocks = cut(speech[:32000], 1600)
    events = listen(Tracer(open_session(pausing_model), tmp_path / "live.trace"), blocks)
    trace = read_trace(tmp_path / "live.trace")
    assert list(trace.events) == events
    assert trace.header.finished
    assert np.array_equal(np.concatenate(list(trace.blocks())), speech[:32000])


def test_slow_computing_is_told_and_nothing_is_taken() -> None:
    session = Gate(echo := Echo())
    with LiveSession(session, max_audio_s=1.0) as live:
        for _ in range(4):
            live.feed(BLOCK)
        assert live.waiting_s == 1.0
        for timeout_s in (0.0, 0.01):
            with pytest.raises(BacklogError, match=r"0.25 s does not fit: 1.00 s wait, max_audio_s is 1.00; computing"):
                live.feed(BLOCK, timeout_s)
        assert live.waiting_s == 1.0
        session.open.set()
        live.feed(2 * BLOCK, timeout_s=math.inf)
        live.finish()
        assert numbers(list(live)) == [0, 1, 2, 3, 4, 5]
        assert live.waiting_s == 0
    assert [samples[0] for samples in echo.heard] == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_unread_events_are_told() -> None:
    with LiveSession(Echo(events_per_block=3), max_audio_s=0.5, max_events=2) as live:
        live.feed(BLOCK)
        wait_until_unread(live)
        live.feed(BLOCK)
        with pytest.raises(BacklogError, match=r"0.50 s wait, .*; 2 events wait to be read; iterate over"):
            live.feed(BLOCK)
        live.finish()
        assert numbers(list(live)) == list(range(7))


def test_a_refused_block_can_be_fed_again(pausing_model: Model, speech: Floats) -> None:
    blocks = cut(speech[:32000], 800)
    want = list(stream(open_session(pausing_model), iter(blocks)))
    session, refused = Gate(open_session(pausing_model)), []
    with LiveSession(session, max_audio_s=0.2) as live:
        for block in blocks:
            try:
                live.feed(block)
            except BacklogError:
                refused.append(block)
                session.open.set()
                live.feed(block, timeout_s=math.inf)
        live.finish()
        assert list(live) == want
    assert refused


def test_what_waits_is_bounded_however_fast_it_comes() -> None:
    echo, waiting = Echo(), []
    echo.on_feed = lambda: waiting.append(
        (live.waiting_s, sum(block.size for block in list(live._work._blocks) if block is not None))
    )
    with LiveSession(echo, max_audio_s=1.0) as live, ThreadPoolExecutor(4) as pool:
        played = [pool.submit(live.feed, BLOCK, math.inf) for _ in range(500)]
        for one in played:
            one.result(PATIENCE_S)
        live.finish()
        assert numbers(list(live)) == list(range(501))
    assert len(waiting) == 500
    assert max(seconds for seconds, _ in waiting) <= 1.0
    assert max(samples for _, samples in waiting) <= 1000


def test_a_block_is_copied() -> None:
    session, block = Gate(echo := Echo()), BLOCK.copy()
    with LiveSession(session) as live:
        live.feed(block)
        block[:] = 0.5
        live.feed(block[::2])
        session.open.set()
        live.finish()
        list(live)
    assert np.array_equal(echo.heard[0], BLOCK)
    assert echo.heard[1].flags.c_contiguous


def test_blocks_of_nothing_do_not_pile_up() -> None:
    session = Gate(Echo())
    with LiveSession(session) as live:
        for _ in range(3):
            live.feed(BLOCK[:0])
        assert live.waiting_s == 0
        assert not live._work._blocks


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros(10), r"audio block is float64 \(10,\); expected a numpy array, float32"),
        (np.zeros((10, 2), dtype=np.float32), r"float32 \(10, 2\)"),
        (np.array([0, np.nan], dtype=np.float32), "holds NaN or Inf"),
        (np.zeros(501, dtype=np.float32), "audio block of 0.50 s is longer than max_audio_s 0.50; cut it"),
    ],
)
def test_blocks_that_are_no_audio(block: Any, message: str) -> None:
    with LiveSession(Echo(), max_audio_s=0.5) as live:
        with pytest.raises(AudioError, match=message):
            live.feed(block)
        live.feed(np.zeros(500, dtype=np.float32))  # it goes on
        live.finish()
        assert numbers(list(live)) == [0, 1]


@pytest.mark.parametrize("limits", [{"max_audio_s": 0}, {"max_audio_s": math.inf}, {"max_events": 0}])
def test_limits_out_of_range(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a positive number of seconds and at least 1 event"):
        LiveSession(Echo(), **limits)


def test_an_error_reaches_reader_and_producer() -> None:
    def fail_at_third() -> None:
        if len(echo.heard) == 2:
            raise ZeroDivisionError("the graph broke")

    echo = Echo()
    echo.on_feed = fail_at_third
    with LiveSession(echo) as live:
        for _ in range(3):
            live.feed(BLOCK)
        assert numbers([next(live), next(live)]) == [0, 1]
        lengths = set()
        for call in (partial(next, live), partial(live.feed, BLOCK), live.finish, partial(next, live)):
            with pytest.raises(ZeroDivisionError, match="the graph broke") as raised:
                call()
            lengths.add(len(raised.traceback))
        assert max(lengths) < 10  # it does not grow
        assert live.waiting_s == 0.25
    assert echo.closed
    assert not echo.finished


def test_an_error_that_nobody_was_told_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    echo = Echo()
    echo.on_close = fail
    with pytest.raises(OSError, match="disk full"), LiveSession(echo) as live:
        live.feed(BLOCK)
    live.close()
    with pytest.raises(KeyError, match="of the block"), LiveSession(echo):
        raise KeyError("of the block")


def test_closing_in_the_middle_ends_all_who_wait(caplog: pytest.LogCaptureFixture) -> None:
    session = Gate(echo := Echo())
    live = LiveSession(session, max_audio_s=0.5)
    live.feed(BLOCK)
    live.feed(BLOCK)
    assert session.reached.wait(PATIENCE_S)
    with ThreadPoolExecutor(3) as pool:
        read, fed = pool.submit(list, live), pool.submit(live.feed, BLOCK, math.inf)
        closed = pool.submit(live.close)
        with pytest.raises(SessionError, match="the live session was closed; open a new one"):
            fed.result(PATIENCE_S)
        assert not closed.done()  # the block in work
        session.open.set()
        closed.result(PATIENCE_S)
        assert numbers(read.result(PATIENCE_S)) == [0]
    assert not live._work.thread.is_alive()
    assert echo.closed
    assert len(echo.heard) == 1
    assert caplog.messages == ["live session: closed before its end, with 0.25 s of audio left to hear"]


def test_leaving_with_unread_events_does_not_hang_and_loses_none() -> None:
    with LiveSession(Echo(events_per_block=3), max_events=1) as live:
        live.feed(BLOCK)
        wait_until_unread(live)
    assert not live._work.thread.is_alive()
    assert numbers(list(live)) == [0, 1, 2]


def test_leaving_at_once(pausing_model: Model, caplog: pytest.LogCaptureFixture) -> None:
    session = open_session(pausing_model)
    with LiveSession(session) as live:
        pass
    assert not live._work.thread.is_alive()
    assert list(live) == []
    assert not caplog.messages
    with pytest.raises(SessionError, match="was finished"):
        session.feed(BLOCK)


def test_a_finished_one_refuses() -> None:
    with LiveSession(echo := Echo()) as live:
        live.finish()
        for call in (partial(live.feed, BLOCK), live.finish):
            with pytest.raises(SessionError, match="the live session was finished; open a new one"):
                call()
        assert numbers(list(live)) == [0]
        assert list(live) == []
    assert echo.finished


def test_ctrl_c_reaches_a_waiting_reader(tiny_bundle: Path) -> None:
    """In a process of its own: in this one Ctrl-C may be ignored, or end the tests."""
    code = """
import signal, sys, threading, bestow_edge as be
signal.signal(signal.SIGINT, signal.default_int_handler)
live = be.LiveSession(be.load(sys.argv[1], threads=1).session(source="en"))
try:
    with live:
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        next(live)
except KeyboardInterrupt:
    sys.exit(4 if live._work.thread.is_alive() else 3)
"""
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 3, done.stderr


def test_a_live_session_that_nobody_holds_ends(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1)
    live = LiveSession(model.session(source="en"))
    live.feed(np.zeros(1600, np.float32))
    thread = live._work.thread
    del live
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_live_session_in_an_exception_ends(tiny_bundle: Path) -> None:
    threads = []

    def serve() -> None:
        live = LiveSession(load(tiny_bundle, threads=1).session(source="en"))
        threads.append(live._work.thread)
        raise RuntimeError("the server fails")

    with pytest.raises(RuntimeError, match="the server fails"):
        serve()
    gc.collect()
    threads[0].join(PATIENCE_S)
    assert not threads[0].is_alive()


def test_a_program_ends_while_live_sessions_compute(tiny_bundle: Path) -> None:
    code = """
import sys, time, numpy as np, bestow_edge as be
model = be.load(sys.argv[1], threads=2)
lives = [be.LiveSession(model.session(source="en")) for _ in range(4)]
for live in lives: live.feed((0.1 * np.random.default_rng(0).standard_normal(160000)).astype("float32"))
time.sleep(0.1)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
