"""The encoder stream: samples in blocks through the graph = the whole utterance in PyTorch, for every look-ahead."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from encoding import encode, feed, finish
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.features import log_mel
from bestow_edge.core.specs.chunked import GRAPH
from bestow_edge.core.specs.cross_adapter import KEYS, VALUES
from bestow_edge.runtime.encoders.base import SpeechSteps
from bestow_edge.runtime.encoders.chunked import EncoderStream
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.listener import Listener

Floats = npt.NDArray[np.float32]
TOLERANCE = 1e-4  # float32 sums in another order, values near 3


def whole(torch_model: Any, mel: Floats, lookahead: int) -> tuple[Floats, Floats]:
    """Return all keys and values by transformers' own forward pass."""
    with torch.no_grad():
        speech = torch_model.encode(torch.from_numpy(mel)[None], torch.tensor([mel.shape[0]]), lookahead)
        adapter = torch_model.connector
        pairs = [layer.cross_attention.keys_values(adapter.speech_in(speech.steps)) for layer in adapter.layers]
    keys, values = (torch.stack(part).numpy() for part in zip(*pairs, strict=True))
    return keys, values


def joined(steps: list[SpeechSteps]) -> tuple[Floats, Floats]:
    return (
        np.concatenate([step.tensors[KEYS] for step in steps], axis=3),
        np.concatenate([step.tensors[VALUES] for step in steps], axis=3),
    )


def blocks(model: Model, samples: Floats, cuts: list[int], lookahead: int) -> tuple[Floats, Floats]:
    listener = Listener(EncoderStream(model.graphs[GRAPH], model.config, lookahead), None)
    steps = []
    for block in np.split(samples, sorted(cuts)):
        listener.add(block)
        while listener.has_chunk:
            steps.append(listener.next_chunk())
    listener.end()
    while listener.has_chunk:
        steps.append(listener.next_chunk())
    assert listener.ended
    return joined(steps)


@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
@pytest.mark.parametrize("num_samples", [200, 1599, 16000, 96000])
def test_stream_equals_the_whole_utterance(
    model: Model, torch_model: Any, speech: Floats, num_samples: int, lookahead: int
) -> None:
    samples = speech[:num_samples]
    got = blocks(model, samples, list(range(1000, num_samples, 1000)), lookahead)
    want = whole(torch_model, log_mel(samples, model.config.features), lookahead)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def test_blocks_do_not_matter(model: Model, speech: Floats) -> None:
    @given(
        num_samples=st.integers(160, 30000),
        cuts=st.lists(st.integers(0, 30000), max_size=8),
        lookahead=st.sampled_from([13, 6, 1, 0]),
    )
    def check(num_samples: int, cuts: list[int], lookahead: int) -> None:
        samples = speech[:num_samples]
        got = blocks(model, samples, [min(cut, num_samples) for cut in cuts], lookahead)
        want = blocks(model, samples, [], lookahead)
        for one, other in zip(got, want, strict=True):
            assert np.array_equal(one, other)

    check()


def test_a_state_is_not_changed_by_a_step(model: Model, speech: Floats) -> None:
    stream = EncoderStream(model.graphs[GRAPH], model.config, 1)
    _, state = feed(stream, speech[:16000], stream.initial_state())
    once = joined(feed(stream, speech[16000:32000], state)[0])
    other = joined(feed(stream, speech[:16000], state)[0])
    again = joined(feed(stream, speech[16000:32000], state)[0])
    assert np.array_equal(once[0], again[0])
    assert not np.allclose(once[0], other[0], atol=1e-2)


def test_no_audio_gives_no_steps(model: Model) -> None:
    stream = EncoderStream(model.graphs[GRAPH], model.config, 13)
    assert finish(stream, stream.initial_state()) == []
    steps, state = feed(stream, np.zeros(0, dtype=np.float32), stream.initial_state())
    assert steps == []
    assert finish(stream, state) == []


@pytest.mark.parametrize("lookahead", [13, 0])
@pytest.mark.parametrize("ended", [False, True])
def test_restart_begins_at_an_earlier_frame(
    model: Model, torch_model: Any, speech: Floats, lookahead: int, ended: bool
) -> None:
    stream = EncoderStream(model.graphs[GRAPH], model.config, lookahead)
    steps, state = feed(stream, speech[:48000], stream.initial_state())
    encoded = sum(step.tensors[KEYS].shape[3] for step in steps) * 8 - 7  # frames: the first step has one real frame
    assert state.num_frames == encoded
    if ended:
        state = stream.end(stream.add(speech[48000:], state))
    state, first = stream.restart(state, encoded - 100)
    assert first == encoded - 100
    steps, state = encode(stream, state) if ended else feed(stream, speech[48000:], state)
    assert stream.ended(state) == ended
    got = joined(steps if ended else [*steps, *finish(stream, state)])
    mel = log_mel(speech, model.config.features)[first:]
    for one, other in zip(got, whole(torch_model, mel, lookahead), strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)
