"""Long pauses: a scripted model that writes one word per burst of sound shows that none is lost or written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.core.config import FeatureConfig, SegmentConfig
from bestow_edge.core.policy import Offline, Policy, WaitK
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.core.tensors import CACHE, NEW, NEXT, GraphSpec
from bestow_edge.runtime.decoders.cross_adapter import Attempt
from bestow_edge.runtime.devices.base import CPU
from bestow_edge.runtime.encoders.chunked import SpeechSteps
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream import segments as segments_module
from bestow_edge.runtime.stream import session as session_module
from bestow_edge.runtime.stream.events import TextEvent

Floats = npt.NDArray[np.float32]
RATE_HZ = 16000
LOUD = -10.0  # mean log-mel of a step that holds sound; silence has -16.6
END = 2


class LoudnessGraph:
    """In the encoder's place: the key of a step is 1 if the step is loud."""

    device = CPU

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.steps_run: list[int] = []

    def runner(self) -> LoudnessGraph:
        """One stream at a time."""
        self.bound: dict[str, Any] = {}
        return self

    def bind(self, arrays: Mapping[str, Any]) -> None:
        """Keep what is bound."""
        self.bound |= arrays

    def run(self) -> dict[str, Any]:
        """Return keys that hold the loudness; states pass through, the rings stay as they are."""
        mel = self.bound["mel"][0].copy()
        if "frame_start" in self.bound:
            mel[: self.bound["frame_start"][0]] = -20
        mel[self.bound["frame_end"][0] :] = -20
        loud = mel.mean(1).reshape(-1, 8).max(1) > LOUD  # (steps,)
        self.steps_run.append(loud.size)
        keys = loud.astype(np.float32)[None, None, None, :, None]
        states = {NEXT + tensor.name: self.bound[tensor.name] for tensor in self.spec.states}
        rings = [name for name in self.bound if name.startswith(CACHE)]
        new = {NEW + name.removeprefix(CACHE): self.bound[name][:, :, : loud.size] for name in rings}
        return {"cross_keys": keys, "cross_values": keys} | states | new


class Memory:
    """As much of the speech memory as a session looks at."""

    def __init__(self) -> None:
        self.loud: list[bool] = []

    @property
    def written(self) -> int:
        """Steps heard."""
        return len(self.loud)

    def write(self, speech: SpeechSteps) -> None:
        """Note which steps are loud."""
        self.loud[speech.start :] = [bool(key) for key in speech.keys[0, 0, 0, :, 0]]


class BurstDecoder:
    """In the text side's place: token 100 + i for burst i once it has ended, else the end token."""

    rows = 1

    def __init__(self, *_: object) -> None:
        self.memory = Memory()
        self.num_tokens = np.ones(1)
        self.done = 0

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Forget what is written in the block."""
        done = self.done
        try:
            yield
        finally:
            self.done = done

    def attempt(self, visible: list[int]) -> list[Attempt]:
        """Count the bursts that end within what is visible; look at the one that is written."""
        seen = np.array([0, *self.memory.loud[: visible[0]]], dtype=int)
        (starts,), (ends,) = np.nonzero(np.diff(seen) == 1), np.nonzero(np.diff(seen) == -1)
        attention = np.zeros((1, seen.size), dtype=np.float32)
        if self.done >= ends.size:
            return [Attempt(END, 0.0, lambda: attention[0], lambda: attention)]
        attention[0, starts[self.done] : ends[self.done]] = 1
        return [Attempt(100 + self.done, 0.0, lambda: attention[0], lambda: attention)]

    def commit(self, _row: int, _token_id: int) -> None:
        """One more burst is written."""
        self.done += 1
        self.num_tokens += 1


class NumberText:
    """In the detokenizer's place: numbers."""

    def __init__(self, _tokenizer: object, prefix: str) -> None:
        self.prefix = prefix

    def push(self, token_id: int) -> str:
        """Return the burst's number in its segment."""
        return f"{self.prefix}{token_id - 100}"


@pytest.fixture
def scripted(remake_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose sessions write one number per burst."""
    return write_bursts(remake_model(), monkeypatch)


@pytest.fixture(params=[(4, 13, 375), (1, 0, 20), (3, 5, 8), (25, 13, 38)], ids=str)
def bidirectional(
    request: pytest.FixtureRequest, remake_bidirectional: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> Model:
    """The same with a bidirectional encoder: several blocks, right contexts and windows."""
    block, right_context, window = request.param
    streaming = WindowedConfig(block=block, right_context=right_context, window=window)
    return write_bursts(remake_bidirectional({"features": FeatureConfig(), "bidirectional": streaming}), monkeypatch)


def write_bursts(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    spec = model.encoder.spec
    model.take_graphs({**model.graphs, spec.name: LoudnessGraph(spec)})
    monkeypatch.setattr(session_module, "TextDecoder", BurstDecoder)
    monkeypatch.setattr(session_module, "Detokenizer", NumberText)
    monkeypatch.setattr(segments_module, "_begins_word", lambda *_: True)
    return model


def bursts(starts_s: list[float], total_s: float) -> Floats:
    """Silence with bursts of noise of 0.3 s."""
    samples = np.zeros(round(total_s * RATE_HZ), dtype=np.float32)
    rng = np.random.default_rng(0)
    for start_s in starts_s:
        first = round(start_s * RATE_HZ)
        samples[first : first + 4800] = 0.3 * rng.standard_normal(4800)
    return samples


def hear(model: Model, samples: Floats, block: int, **options: Any) -> tuple[list[TextEvent], float]:
    lookahead = {} if model.config.bidirectional else {"lookahead": 1}
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
    assert [event.text for event in events] == ["0", "1", "2", " 0", " 1", " 0"]
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
    scripted: Model,
    monkeypatch: pytest.MonkeyPatch,
    log_prob: float,
    background: float,
    gaps_s: list[float],
    written: int,
) -> None:
    attempt = BurstDecoder.attempt

    def unsure(self: BurstDecoder, visible: list[int]) -> list[Attempt]:
        return [replace(item, log_prob=log_prob) for item in attempt(self, visible)]

    monkeypatch.setattr(BurstDecoder, "attempt", unsure)
    samples = (background * np.random.default_rng(0).standard_normal(16 * RATE_HZ)).astype(np.float32)
    if not background:  # a burst where the others have the end of the sound
        samples[round(13.6 * RATE_HZ) : 14 * RATE_HZ] = 0.3 * np.random.default_rng(1).standard_normal(6400)
    for gap_s in gaps_s:
        samples[round(gap_s * RATE_HZ) : round((gap_s + 0.25) * RATE_HZ)] = 0
    session = scripted.session(source="en", policy=WaitK(3, 4), lookahead=1)
    events = session.feed(samples[: round((gaps_s[-1] + 1.4) * RATE_HZ)])
    assert len([event for event in events if isinstance(event, TextEvent)]) == written


def test_silence_alone_rolls_over_without_segments(scripted: Model) -> None:
    session = scripted.session(source="en", k=1, l=1, lookahead=1)
    for _ in range(60):
        assert session.feed(np.zeros(RATE_HZ, dtype=np.float32)) == []
    assert session.segment == 0
    assert session._decoder.memory.written < 160
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
def test_what_a_lone_word_is(tokens: list[str], log_probs: list[float], expected: tuple[int, int] | None) -> None:
    class Pieces:
        """In the tokenizer's place: token i is the i-th of `tokens`."""

        def id_to_token(self, token_id: int) -> str:
            """Write a space as byte-level vocabularies do."""
            return tokens[token_id].replace(" ", "Ġ")

    def attempt(index: int) -> Attempt:
        alignment = np.zeros((1, 10), dtype=np.float32)
        alignment[0, index : index + 2] = 0.5
        return Attempt(index, log_probs[index], lambda: alignment[0], lambda: alignment)

    answer = [attempt(index) for index in range(len(tokens))]
    assert segments_module.lone_word(answer, 9, Pieces()) == expected  # type: ignore[arg-type]  # as much as it asks
