"""Calibration with a clock of its own: what is counted, when it ends, and when a machine keeps up."""

from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.delay import Choice, solve
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import WaitK
from bestow_edge.core.prompts import parse_pair
from bestow_edge.runtime.calibration import Calibration, calibrate
from bestow_edge.runtime.encoders.base import SpeechEncoder
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.answer import Prompt
from bestow_edge.runtime.stream.session import Session

PAIR = parse_pair("en-de")


class RecordedModel(Model):
    """Keeps the sessions opened on it, and the look-aheads of their encoders."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.directory, model.manifest, device="cpu", threads=1)
        self.sessions: list[Session] = []
        self.lookaheads: list[int] = []

    def multi_session(self, *prompts: Any, **options: Any) -> Session:
        self.sessions.append(super().multi_session(*prompts, **options))
        return self.sessions[-1]

    def open_encoder(self, *arguments: Any, right_context: int, **options: Any) -> SpeechEncoder[Any]:
        self.lookaheads.append(right_context)
        return super().open_encoder(*arguments, right_context=right_context, **options)


def choice(lookahead: int) -> Choice:
    return Choice(k=3, l=4, lookahead=lookahead, delay_s=0.0)


def clock(walls_s: Iterator[float]) -> Callable[[], float]:
    """Return a clock that shows as many seconds for each chunk as it is told, and none between chunks."""
    now_s = 0.0
    turns = count(-1)  # the first call comes before all chunks

    def read() -> float:
        nonlocal now_s
        turn = next(turns)
        if turn > 0 and turn % 2:
            now_s += next(walls_s)
        return now_s

    return read


def test_measures_for_the_time_given(model: Model) -> None:
    done = calibrate(model, [PAIR], choice(6), 2.0, clock=clock(repeat(0.25)))
    assert done.chunk_s == pytest.approx(7 * 0.08)
    assert done.chunk_walls_s == (0.25,) * 8
    assert done.rtf == pytest.approx(0.25 / 0.56)
    assert done.p95_rtf == pytest.approx(0.25 / 0.56)
    assert done.extra_s == 0.25
    assert done.keeps_up


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_slow_machine_measures_one_chunk(model: Model, seconds: float) -> None:
    done = calibrate(model, [PAIR], choice(13), seconds, clock=clock(repeat(9.0)))
    assert done.chunk_walls_s == (9.0,)
    assert not done.keeps_up


@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
def test_more_than_one_session_when_there_is_time(model: Model, lookahead: int) -> None:
    num_chunks = 12 / ((lookahead + 1) * 0.08)  # a few of them come before the first text
    done = calibrate(model, [PAIR], choice(lookahead), 1.5 * num_chunks, clock=clock(repeat(1.0)))
    assert num_chunks < len(done.chunk_walls_s) <= 1.5 * num_chunks + 1


def test_text_is_part_of_what_is_measured(model: Model) -> None:
    recorded = RecordedModel(model)
    pairs = [PAIR, parse_pair("en-en")]
    calibrate(recorded, pairs, choice(1), 20.0, clock=clock(repeat(1.0)))
    session = recorded.sessions[0]
    assert session.prompts == tuple(Prompt(pair, WaitK(3, 4)) for pair in pairs)
    assert session.heard_s == pytest.approx((6 + 20) * 0.16)  # 6 chunks of 2 steps for 3 blocks of 4 steps
    assert session.num_tokens > len(model.prompt_ids(PAIR))


def test_a_bidirectional_encoder_has_one_lookahead(bidirectional_bundle: Path) -> None:
    model = load(bidirectional_bundle)
    done = calibrate(model, [PAIR], solve(2.5, model.config), 0.0)
    assert done.chunk_s == pytest.approx(14 * 0.08)


@pytest.mark.parametrize(
    ("walls_s", "keeps_up"),
    [
        ([0.79] * 40, True),
        ([0.81] * 40, False),  # no margin left
        ([0.1] * 39 + [5.0], True),  # one hiccup
        ([0.1] * 37 + [1.0] * 3, False),  # again and again as long as a chunk
        ([0.1] * 3 + [1.0], False),  # few chunks: the slowest counts
    ],
)
def test_keeping_up_needs_a_margin(walls_s: list[float], keeps_up: bool) -> None:
    assert Calibration(chunk_s=1.0, chunk_walls_s=tuple(walls_s)).keeps_up == keeps_up


def test_the_real_clock_goes_forward(model: Model) -> None:
    done = calibrate(model, [PAIR], choice(13), 0.0)
    assert done.rtf > 0
    assert done.extra_s > 0


def test_a_session_takes_a_latency(model: Model) -> None:
    recorded = RecordedModel(model)
    session = recorded.session(source="en", target="de", latency_s=2.5)
    wanted = solve(2.5, model.config)
    assert session.prompts[0].policy == WaitK(wanted.k, wanted.l)
    assert [session.lookahead, *recorded.lookaheads] == [wanted.lookahead] * 2


@pytest.mark.parametrize("other", [{"k": 3}, {"l": 4}, {"lookahead": 13}, {"policy": WaitK(3, 4)}])
def test_a_latency_excludes_what_it_chooses(model: Model, other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="either latency_s or k, l, policy and lookahead"):
        model.session(source="en", latency_s=2.5, **other)  # type: ignore[arg-type]  # one of several types


def test_a_latency_too_short_for_the_model(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"latency 0\.01 s: the shortest possible with this model is K=1"):
        model.session(source="en", latency_s=0.01)
