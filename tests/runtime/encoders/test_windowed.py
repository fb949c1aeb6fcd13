"""The bidirectional encoder's stream: each encoding = PyTorch on the same frames, however the samples were cut."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from encoding import feed, finish
from hypothesis import given
from hypothesis import strategies as st
from scripted import RecordedGraph

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.features import log_mel, normalize_frames
from bestow_edge.core.policy import LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.specs.cross_adapter import KEYS, VALUES, cross_adapter
from bestow_edge.core.specs.windowed import GRAPH, windowed
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.encoders.base import SpeechSteps
from bestow_edge.runtime.encoders.windowed import EncoderWindow, WindowState
from bestow_edge.runtime.model import Model

Floats = npt.NDArray[np.float32]
TOLERANCE = 1e-4  # float32 sums in another order, values near 10
DEFAULT = {"block": 4, "right_context": 13, "window": 375}
SMALL = {"block": 3, "right_context": 5, "window": 12}
FEATURES = FeatureConfig(normalize="per_feature")


def make_stream(
    model: Model, sizes: dict[str, int] = DEFAULT, features: FeatureConfig = FEATURES, graph: Graph | None = None
) -> EncoderWindow:
    config = replace(model.config, features=features)
    return EncoderWindow(graph or model.graphs[GRAPH], replace(windowed(config), **sizes), config)


def listen(
    stream: EncoderWindow, samples: Floats, cuts: list[int], state: WindowState | None = None
) -> tuple[list[SpeechSteps], WindowState]:
    """Return all chunks and the state before the end of the audio."""
    state = state or stream.initial_state()
    chunks = []
    for block in np.split(samples, sorted(cuts)):
        new, state = feed(stream, block, state)
        chunks += new
    return chunks, state


def encoded(torch_model: Any, frames: Floats) -> tuple[Floats, Floats]:
    """Return keys and values of frames that are not normalised yet, by transformers' own forward pass."""
    mel = normalize_frames(frames, FEATURES)
    with torch.no_grad():
        speech = torch_model.encode(torch.from_numpy(mel)[None], torch.tensor([len(mel)]))
        adapter = torch_model.connector
        pairs = [layer.cross_attention.keys_values(adapter.speech_in(speech.steps)) for layer in adapter.layers]
    keys, values = (torch.stack(part).numpy() for part in zip(*pairs, strict=True))
    return keys, values


def check(speech: SpeechSteps, torch_model: Any, frames: Floats, dropped: int) -> None:
    for got, want in zip((speech.tensors[KEYS], speech.tensors[VALUES]), encoded(torch_model, frames), strict=True):
        count = want.shape[3] - dropped
        assert speech.end - speech.start == count
        np.testing.assert_allclose(got[:, :, :, :count], want[:, :, :, :count], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("sizes", [DEFAULT, SMALL], ids=["default", "small"])
def test_each_block_is_the_window_so_far_without_its_last_steps(
    bidirectional_model: Model, bidirectional_torch_model: Any, speech: Floats, sizes: dict[str, int]
) -> None:
    chunks, _ = listen(make_stream(bidirectional_model, sizes), speech, list(range(1000, speech.size, 1000)))
    frames = log_mel(speech, FeatureConfig())
    num_blocks = (len(frames) // 8 - sizes["right_context"]) // sizes["block"]
    assert len(chunks) == num_blocks > 10
    for index, chunk in enumerate(chunks):
        end = (index + 1) * sizes["block"] + sizes["right_context"]
        assert chunk.start == max(0, end - sizes["window"])
        window = frames[8 * chunk.start : 8 * end]
        check(chunk, bidirectional_torch_model, window, sizes["right_context"])


@pytest.mark.parametrize("num_samples", [160, 200, 1599, 16000, 16161, 21_600, 60_001, 96_000])
def test_the_end_drops_nothing_and_equals_the_offline_pass(
    bidirectional_model: Model, bidirectional_torch_model: Any, speech: Floats, num_samples: int
) -> None:
    samples = speech[:num_samples]
    stream = make_stream(bidirectional_model)
    chunks, state = listen(stream, samples, [])
    last = finish(stream, state)[-1]
    assert last.start == 0
    check(last, bidirectional_torch_model, log_mel(samples, FeatureConfig()), 0)
    want = encoded_offline(bidirectional_torch_model, samples)
    np.testing.assert_allclose(last.tensors[KEYS], want, atol=TOLERANCE, rtol=TOLERANCE)
    heard = chunks[-1].end if chunks else 0
    assert heard <= last.tensors[KEYS].shape[3] == -(-(num_samples // 160) // 8)


def kept(chunk: SpeechSteps) -> Floats:
    """Return the keys of a chunk's steps, without those behind them that lack a future."""
    keys: Floats = chunk.tensors[KEYS][:, :, :, : chunk.end - chunk.start]
    return keys


@torch.no_grad()
def encoded_offline(torch_model: Any, samples: Floats) -> Floats:
    """Return all keys as training and offline decoding see them."""
    mel = torch.from_numpy(log_mel(samples, FEATURES))
    speech = torch_model.encode(mel[None], torch.tensor([len(mel)]))
    layers = torch_model.connector.layers
    keys: Floats = torch.stack(
        [layer.cross_attention.keys_values(torch_model.connector.speech_in(speech.steps))[0] for layer in layers]
    ).numpy()
    return keys


@pytest.mark.parametrize("sizes", [DEFAULT, SMALL], ids=["default", "small"])
def test_blocks_do_not_matter(bidirectional_model: Model, speech: Floats, sizes: dict[str, int]) -> None:
    stream = make_stream(bidirectional_model, sizes)

    @given(num_samples=st.integers(0, 40000), cuts=st.lists(st.integers(0, 40000), max_size=8))
    def check_cuts(num_samples: int, cuts: list[int]) -> None:
        samples = speech[:num_samples]
        cuts = [min(cut, num_samples) for cut in cuts]
        # an empty block and blocks of one sample among them
        chunks, state = listen(stream, samples, [*cuts, *cuts, *(min(cut + 1, num_samples) for cut in cuts)])
        whole, whole_state = listen(stream, samples, [])
        pairs = zip([*chunks, *finish(stream, state)], [*whole, *finish(stream, whole_state)], strict=True)
        for one, other in pairs:
            assert one.start == other.start
            assert np.array_equal(one.tensors[KEYS], other.tensors[KEYS])
            assert np.array_equal(one.tensors[VALUES], other.tensors[VALUES])

    check_cuts()


@pytest.mark.parametrize("sizes", [SMALL, SMALL | {"window": 8}], ids=["12", "8"])
def test_the_window_bounds_the_cost_and_keeps_older_steps(
    bidirectional_model: Model, speech: Floats, sizes: dict[str, int]
) -> None:
    graph = RecordedGraph(bidirectional_model.graphs[GRAPH])
    stream = make_stream(bidirectional_model, sizes, graph=graph)
    memory = SpeechMemory(cross_adapter(bidirectional_model.config), first_slots=128)
    state = stream.initial_state()
    chunks = []
    for block in np.split(speech, range(1000, speech.size, 1000)):
        new, state = listen(stream, block, [], state)
        chunks += new
        assert len(state.frames) < 8 * (sizes["window"] + sizes["block"] + 1) + 8
    for chunk in [*chunks, *finish(stream, state)]:
        before = memory.keys.copy()
        assert chunk.start <= memory.written  # no step is ever left out
        memory.write(chunk)
        assert np.array_equal(memory.keys[:, :, : chunk.start], before[:, :, : chunk.start])
        assert np.array_equal(memory.keys[:, :, chunk.start : memory.written], kept(chunk)[:, 0])
    assert memory.written == 75
    assert max(graph.frames) == 8 * sizes["window"]
    assert sum(size == 8 * sizes["window"] for size in graph.frames) > 10


def test_a_state_is_not_changed_by_a_step(bidirectional_model: Model, speech: Floats) -> None:
    stream = make_stream(bidirectional_model)
    _, state = listen(stream, speech[:32000], [])
    once, _ = listen(stream, speech[32000:64000], [], state)
    other, _ = listen(stream, speech[:32000], [], state)
    again, _ = listen(stream, speech[32000:64000], [], state)
    assert np.array_equal(once[-1].tensors[KEYS], again[-1].tensors[KEYS])
    assert not np.allclose(once[-1].tensors[KEYS], other[-1].tensors[KEYS], atol=1e-2)


def test_no_audio_gives_no_steps(bidirectional_model: Model) -> None:
    stream = make_stream(bidirectional_model)
    assert finish(stream, stream.initial_state()) == []
    chunks, state = listen(stream, np.zeros(159, dtype=np.float32), [0, 0, 1])
    assert (chunks, finish(stream, state)) == ([], [])


@pytest.mark.parametrize("num_samples", [0, 20_000, 48_000])
def test_restart_hears_the_last_second_again_and_all_that_was_dropped(
    bidirectional_model: Model, bidirectional_torch_model: Any, speech: Floats, num_samples: int
) -> None:
    stream = make_stream(bidirectional_model)
    chunks, state = listen(stream, speech[:num_samples], [])
    given_out = 8 * (chunks[-1].end) if chunks else 0
    state, first = stream.restart(state, given_out - 96)
    assert first == max(0, given_out - 96)
    assert (state.steps, state.first_frame) == (0, 0)
    _, state = listen(stream, speech[num_samples:], [], state)
    frames = log_mel(speech, FeatureConfig())[first:]
    check(finish(stream, state)[-1], bidirectional_torch_model, frames, 0)


def test_finish_after_a_large_block_leaves_no_gap(bidirectional_model: Model, speech: Floats) -> None:
    stream = make_stream(bidirectional_model, SMALL)
    chunks = finish(stream, stream.add(speech, stream.initial_state()))
    written = 0
    for chunk in chunks:
        assert chunk.start <= written
        written = chunk.end
    assert written == 75


def test_features_without_normalisation(remake_bidirectional: Callable[..., Model], speech: Floats) -> None:
    model = remake_bidirectional({"features": FeatureConfig()})
    stream = make_stream(model, features=model.config.features)
    scaled = make_stream(model)
    plain_steps, normal_steps = (
        finish(one, one.add(speech[:16000], one.initial_state()))[0] for one in (stream, scaled)
    )
    assert not np.allclose(plain_steps.tensors[KEYS], normal_steps.tensors[KEYS], atol=1e-1)


@pytest.mark.parametrize(
    ("policies", "block"),
    [
        ([WaitK(3, 4), WaitK(9, 4)], 4),  # as the model: the block that it was made with
        ([WaitK(3, 6)], 6),
        ([WaitK(3, 6), LocalAgreement(2, 2), Offline()], 2),  # no text waits for more than it reads
    ],
)
def test_the_block_follows_the_policies(bidirectional_model: Model, policies: list[Policy], block: int) -> None:
    encoder = bidirectional_model.open_encoder(bidirectional_model.graphs, policies, 13)
    assert encoder.sizes.block == block
