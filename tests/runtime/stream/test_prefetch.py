"""Encoding ahead: the same chunks and the same texts, whatever was begun for nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bestow_edge.core.config import SegmentConfig
from bestow_edge.runtime import load
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.audio.files import read_audio
from bestow_edge.runtime.stream.prefetch import Ahead


def test_what_was_begun_for_another_state_is_dropped() -> None:
    asked: list[str] = []

    def encode(state: str) -> tuple[str, str]:
        asked.append(state)
        return f"speech of {state}", f"after {state}"

    with ThreadPoolExecutor(1) as executor:
        ahead = Ahead(encode, executor)
        first, other = "first", "other"
        ahead.begin(first)
        assert ahead.next_chunk(first) == ("speech of first", "after first")
        assert asked == ["first"]  # encoded once
        ahead.begin(first)
        assert ahead.next_chunk(other) == ("speech of other", "after other")
        assert asked == ["first", "first", "other"]
        assert ahead.next_chunk(first) == ("speech of first", "after first")


def test_texts_are_the_same() -> None:
    """With segments that end within the audio, whose encoder begins anew behind what was encoded ahead."""
    paths = sorted(sample_manifest().parent.glob("en_*.ogg"))
    waveform = np.concatenate([read_audio(path, 16000) for path in paths])
    events = []
    for ahead in (False, True):
        model = load(ahead=ahead)
        assert (model.executor is not None) == ahead
        with model.session(source="en", k=3, segments=SegmentConfig(pause_s=1.4, max_tokens=6, max_s=5)) as session:
            events.append([*session.feed(waveform), *session.finish()])
    assert events[0] == events[1]
    assert events[0][-1].segment >= 3
