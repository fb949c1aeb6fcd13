"""Long pauses: a scripted model that writes one word per burst of sound shows that none is lost or written twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scripted import ScriptedModel, word_tokenizer, write_bursts

from bestow_edge.core.config import FeatureConfig, SegmentConfig
from bestow_edge.core.policy import Offline, Policy, WaitK
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import TextEvent
from bestow_edge.runtime.stream.segments import only_word

Floats = npt.NDArray[np.float32]
RATE_HZ = 16000


@pytest.fixture
def scripted(model: Model) -> ScriptedModel:
    """A model whose sessions write one number per burst."""
    return write_bursts(model)


@pytest.fixture(params=[(4, 13, 375), (1, 0, 20), (3, 5, 8), (25, 13, 38)], ids=str)
def bidirectional(
    request: pytest.FixtureRequest, bidirectional_model: Model, remake_bidirectional: Callable[..., Model]
) -> Model:
    """The same with a bidirectional encoder: several blocks, right contexts and windows."""
    block, right_context, window = request.param
    sizes = {"block": block, "right_context": right_context, "window": window}
    encoder = replace(windowed(bidirectional_model.config), **sizes)
    return write_bursts(remake_bidirectional({"features": FeatureConfig(), "encoder": encoder}))


def bursts(starts_s: list[float], total_s: float) -> Floats:
    """Silence with bursts of noise of 0.3 s."""
    samples = np.zeros(round(total_s * RATE_HZ), dtype=np.float32)
    rng = np.random.default_rng(0)
    for start_s in starts_s:
        first = round(start_s * RATE_HZ)
        samples[first : first + 4800] = 0.3 * rng.standard_normal(4800)
    return samples


def hear(model: Model, samples: Floats, block: int, **options: Any) -> tuple[list[TextEvent], float]:
    lookahead = {"lookahead": 1} if 1 in model.config.encoder.right_contexts else {}
    session = model.session(source="en", **({"k": 1, "l": 1} | lookahead | options))
    events = [
        event for start in range(0, samples.size, block) for event in session.feed(samples[start : start + block])
    ]
    events += session.finish()
    return [event for event in events if isinstance(event, TextEvent)], session.heard_s


def test_long_pauses_begin_segments(scripted: Model) -> None:
    starts = [0.5, 1.2, 1.9, 5.5, 6.2, 10.0]
    events, heard_s = hear(scripted, bursts(starts, 11), 1000)
    assert [event.segment for event in events] == [0, 0, 0, 1, 1, 2]
    assert [event.text for event in events] == ["0", " 1", " 2", " 0", " 1", " 0"]
    assert heard_s == pytest.approx(11, abs=0.15)
    for event, start_s in zip(events, starts, strict=True):
        assert start_s + 0.3 <= event.heard_s < start_s + 0.75


def test_short_pauses_do_not(scripted: Model) -> None:
    samples = bursts([0.5, 2.35, 4.2], 5.5)
    assert {event.segment for event in hear(scripted, samples, 1000)[0]} == {0}
    assert {
        event.segment for event in hear(scripted, bursts([0.5, 9.0], 10), 1000, segments=SegmentConfig(pause_s=0))[0]
    } == {0}
    assert {event.segment for event in hear(scripted, samples, 1000, segments=SegmentConfig(pause_s=1.5))[0]} == {
        0,
        1,
        2,
    }


@pytest.mark.parametrize("block", [160, 1600, 7777, 1_000_000])
def test_segments_do_not_depend_on_blocks(scripted: Model, block: int) -> None:
    samples = bursts([0.5, 1.2, 5.5, 6.2, 10.0], 12)
    assert hear(scripted, samples, block) == hear(scripted, samples, 999)


@pytest.mark.parametrize("lookahead", [0, 1, 6, 13])
@pytest.mark.parametrize("pause_s", np.round(np.arange(2.0, 4.6, 0.13), 2).tolist())
def test_no_word_is_lost_or_repeated_at_a_roll_over(scripted: Model, pause_s: float, lookahead: int) -> None:
    """The second word begins before, at and after the moment at which the segment rolls over."""
    samples = bursts([0.5, 0.8 + pause_s, 1.5 + pause_s], pause_s + 4)
    events, _ = hear(scripted, samples, 1000, lookahead=lookahead)
    assert len(events) == 3, [event.text for event in events]


@pytest.mark.parametrize("pause_s", np.round(np.arange(2.0, 4.6, 0.37), 2).tolist())
def test_a_bidirectional_encoder_loses_no_word_at_a_roll_over(bidirectional: Model, pause_s: float) -> None:
    samples = bursts([0.5, 0.8 + pause_s, 1.5 + pause_s], pause_s + 4)
    events, heard_s = hear(bidirectional, samples, 1000)
    assert len(events) == 3, [event.text for event in events]
    assert events[-1].segment > 0 or pause_s < 4
    assert heard_s == pytest.approx(pause_s + 4, abs=0.09)
    assert hear(bidirectional, samples, 7777) == (events, heard_s)


@pytest.mark.parametrize("policy", [Offline(), WaitK(1, 1), WaitK(5, 4)], ids=str)
@pytest.mark.parametrize("segment_s", np.round(np.arange(3.0, 6.0, 0.37), 2).tolist())
def test_speech_without_a_pause_is_cut_between_words(scripted: Model, policy: Policy, segment_s: float) -> None:
    rng = np.random.default_rng(round(100 * segment_s))
    starts = (0.5 + np.cumsum(rng.uniform(0.56, 1.1, 30))).tolist()
    samples = bursts(starts, starts[-1] + 1)
    options = {"k": None, "l": None, "policy": policy, "segments": SegmentConfig(pause_s=0, max_s=segment_s)}
    events, heard_s = hear(scripted, samples, 1000, **options)
    assert len(events) == len(starts), [event.text for event in events]
    np.testing.assert_allclose([event.start_s for event in events], starts, atol=0.2)
    assert heard_s == pytest.approx(starts[-1] + 1, abs=0.15)
    assert events[-1].segment > 3
    assert hear(scripted, samples, 7777, **options) == (events, heard_s)


def test_a_long_silence_is_cut_too(scripted: Model) -> None:
    options = {"k": None, "l": None, "policy": Offline(), "segments": SegmentConfig(pause_s=0, max_s=4)}
    events, _ = hear(scripted, bursts([0.5, 30.0], 31), 1000, **options)
    assert [round(event.start_s) for event in events] == [1, 30]


@pytest.mark.parametrize(
    ("log_prob", "background", "gaps_s", "written"),
    [
        (-1.0, 0.3, [14.0], 0),  # a lone, improbable word in the same sound as before
        (-0.05, 0.3, [14.0], 1),  # a probable one
        (-1.0, 0.3, [14.0, 14.5], 2),  # two words: somebody speaks
        (-1.0, 0.0, [14.0], 1),  # in silence a sound stands out
        (-1.0, 0.3, [4.0], 1),  # at the beginning nothing is known of the background
    ],
)
def test_a_lone_improbable_word_in_a_wordless_sound_is_not_written(
    model: Model,
    log_prob: float,
    background: float,
    gaps_s: list[float],
    written: int,
) -> None:
    samples = (background * np.random.default_rng(0).standard_normal(16 * RATE_HZ)).astype(np.float32)
    if not background:  # a burst where the others have the end of the sound
        samples[round(13.6 * RATE_HZ) : 14 * RATE_HZ] = 0.3 * np.random.default_rng(1).standard_normal(6400)
    for gap_s in gaps_s:
        samples[round(gap_s * RATE_HZ) : round((gap_s + 0.25) * RATE_HZ)] = 0
    session = write_bursts(model, log_prob).session(source="en", policy=WaitK(3, 4), lookahead=1)
    events = session.feed(samples[: round((gaps_s[-1] + 1.4) * RATE_HZ)])
    assert len([event for event in events if isinstance(event, TextEvent)]) == written


def test_silence_alone_rolls_over_without_segments(scripted: ScriptedModel) -> None:
    session = scripted.session(source="en", k=1, l=1, lookahead=1)
    for _ in range(60):
        assert session.feed(np.zeros(RATE_HZ, dtype=np.float32)) == []
    assert session.segment == 0
    assert scripted.opened[-1].heard < 160
    assert session.heard_s == pytest.approx(60, abs=0.2)  # and its clock does not drift
    _, event, _ = [*session.feed(bursts([0.3], 1.5)), *session.finish()]
    assert event.text == "0"
    assert event.heard_s == pytest.approx(60.7, abs=0.25)


@pytest.mark.parametrize(
    ("tokens", "log_probs", "expected"),
    [
        ([" a"], [-0.2], (0, 2)),
        ([" a"], [-0.05], None),  # sure
        ([" a", "b"], [-0.06, -0.06], (0, 3)),  # one word of two tokens, together below 0.9
        ([" a", " b"], [-2.0, -2.0], None),  # two words
        (["a", "b", "c", "d", "e"], [-1.0] * 5, None),  # too much for a word
        ([], [], None),
    ],
)
def test_what_an_only_word_is(tokens: list[str], log_probs: list[float], expected: tuple[int, int] | None) -> None:
    # spaces as byte-level vocabularies write them
    tokenizer = word_tokenizer({token.replace(" ", "Ġ"): index for index, token in enumerate(tokens)})

    def attempt(index: int) -> Attempt:
        alignment = np.zeros((1, 10), dtype=np.float32)
        alignment[0, index : index + 2] = 0.5
        return Attempt(index, log_probs[index], 9, lambda: alignment[0], lambda: alignment)

    answer = [attempt(index) for index in range(len(tokens))]
    assert only_word(answer, tokenizer) == expected
