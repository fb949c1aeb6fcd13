"""The listener: chunks in order, the same with or without encoding ahead, whatever was begun for nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from bestow_edge.core.config import SegmentConfig
from bestow_edge.runtime import load
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.audio.files import read_audio
from bestow_edge.runtime.encoders.base import Floats, SpeechSteps
from bestow_edge.runtime.stream.listener import Listener

CHUNK = 2  # samples of a chunk; a step has one


@dataclass(frozen=True)
class Heard:
    """Samples that wait and steps encoded."""

    waiting: int = 0
    steps: int = 0
    ended: bool = False


class CountingEncoder:
    """An encoder that records the states it was asked to encode."""

    frames_per_step = 8

    def __init__(self) -> None:
        self.asked: list[Heard] = []

    def initial_state(self) -> Heard:
        return Heard()

    def add(self, samples: Floats, state: Heard) -> Heard:
        return replace(state, waiting=state.waiting + samples.size)

    def end(self, state: Heard) -> Heard:
        return replace(state, ended=True)

    def ended(self, state: Heard) -> bool:
        return state.ended and not state.waiting

    def has_chunk(self, state: Heard) -> bool:
        return state.waiting >= (1 if state.ended else CHUNK)

    def next_chunk(self, state: Heard) -> tuple[SpeechSteps, Heard]:
        self.asked.append(state)
        end = state.steps + min(CHUNK, state.waiting)
        return SpeechSteps({}, state.steps, end), replace(state, waiting=state.waiting - end + state.steps, steps=end)

    def restart(self, state: Heard, first_frame: int) -> tuple[Heard, int]:
        return Heard(state.waiting + state.steps - first_frame // 8, 0, state.ended), first_frame

    def shortened(self, state: Heard, end_step: int) -> tuple[()]:  # noqa: ARG002 - the protocol's signature
        return ()

    def level(self, state: Heard, first_step: int, end_step: int) -> float:
        return float(state.steps + 10 * first_step + 100 * end_step)


def samples(count: int) -> Floats:
    return np.zeros(count, dtype=np.float32)


def test_a_chunk_begun_for_another_state_is_dropped() -> None:
    encoder = CountingEncoder()
    with ThreadPoolExecutor(1) as executor:
        listener = Listener(encoder, executor)
        listener.add(samples(7))
        assert listener.next_chunk() == SpeechSteps({}, 0, 2)
        assert listener.next_chunk() == SpeechSteps({}, 2, 4)
        listener.add(samples(1))
        assert listener.next_chunk() == SpeechSteps({}, 4, 6)
        listener.restart(3)
        assert listener.next_chunk() == SpeechSteps({}, 0, 2)
    assert encoder.asked == [
        Heard(7),
        Heard(5, 2),  # encoded once, ahead
        Heard(3, 4),  # begun for nothing: a sample came
        Heard(4, 4),
        Heard(2, 6),  # begun for nothing: the segment begins anew
        Heard(5),
        Heard(3, 2),  # begun for the next call
    ]


def test_without_an_executor_a_chunk_is_encoded_when_it_is_asked_for() -> None:
    encoder = CountingEncoder()
    listener = Listener(encoder, None)
    listener.add(samples(5))
    assert listener.next_chunk() == SpeechSteps({}, 0, 2)
    assert encoder.asked == [Heard(5)]
    assert listener.level(1, 2) == 212


def test_the_rest_changes_nothing() -> None:
    listener = Listener(CountingEncoder(), None)
    assert listener.rest() == []
    listener.add(samples(5))
    assert listener.next_chunk() == SpeechSteps({}, 0, 2)
    rest = [SpeechSteps({}, 2, 4), SpeechSteps({}, 4, 5)]
    assert listener.rest() == listener.rest() == rest
    listener.end()
    assert not listener.ended
    assert [listener.next_chunk(), listener.next_chunk()] == rest
    assert listener.ended
    assert not listener.has_chunk


def test_another_encoder_goes_on_with_the_state() -> None:
    first, second = CountingEncoder(), CountingEncoder()
    listener = Listener(first, None)
    listener.add(samples(4))
    listener.next_chunk()
    listener.use(second)
    assert listener.restart(1) == 8
    assert listener.next_chunk() == SpeechSteps({}, 0, 2)
    assert (first.asked, second.asked) == ([Heard(4)], [Heard(3)])


def test_texts_are_the_same() -> None:
    """With segments that end within the audio, whose encoder begins anew behind what was encoded ahead."""
    paths = sorted(sample_manifest().parent.glob("en_*.ogg"))
    waveform = np.concatenate([read_audio(path, 16000) for path in paths])
    events = []
    for ahead in (False, True):
        model = load("demo", ahead=ahead)
        assert (model.executor is not None) == ahead
        with model.session(source="en", k=3, segments=SegmentConfig(pause_s=1.4, max_tokens=6, max_s=5)) as session:
            events.append([*session.feed(waveform), *session.finish()])
    assert events[0] == events[1]
    assert events[0][-1].segment >= 3
