"""Sessions of a bidirectional bundle: the same API, deaf to how audio arrives, equal to PyTorch where it must be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scripted import RecordedGraph, recorded

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.features import log_mel
from bestow_edge.core.policy import Offline
from bestow_edge.core.specs.windowed import GRAPH, windowed
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import verify
from bestow_edge.runtime.stream.events import TextEvent

Floats = npt.NDArray[np.float32]
SPARE_TOKENS = 8


@pytest.fixture(scope="module", params=[(4, 13, 375), (3, 2, 20)], ids=str)
def pausing(
    request: pytest.FixtureRequest, bidirectional_model: Model, remake_bidirectional: Callable[..., Model]
) -> Model:
    """A model that pauses often, with the default and with other sizes."""
    block, right_context, window = request.param
    sizes = {"block": block, "right_context": right_context, "window": window}
    encoder = replace(windowed(bidirectional_model.config), **sizes)
    return remake_bidirectional({"encoder": encoder}, end_ids=tuple(range(0, 300, 7)))


def written(model: Model, samples: Floats, block: int, **options: Any) -> list[TextEvent]:
    session = model.session(**({"source": "de", "segments": SegmentConfig(pause_s=0)} | options))
    events = []
    for start in range(0, samples.size, block):
        events += session.feed(samples[start : start + block])
        events += session.feed(samples[:0])
    events += session.finish()
    return [event for event in events if isinstance(event, TextEvent)]


def test_text_does_not_depend_on_blocks(pausing: Model, speech: Floats) -> None:
    samples = speech[: 4 * 16000]
    expected = written(pausing, samples, 1_000_000, k=1, l=2)
    assert len(expected) > 5
    assert len({event.heard_s for event in expected}) > 3  # written while it listens
    for block in (777, 16_000):
        assert written(pausing, samples, block, k=1, l=2) == expected
    session = pausing.session(source="de", k=1, l=2, segments=SegmentConfig(pause_s=0))
    events = [event for sample in range(3) for event in session.feed(samples[sample : sample + 1])]
    events += [*session.feed(samples[3:]), *session.finish()]
    assert [event for event in events if isinstance(event, TextEvent)] == expected


def test_later_audio_never_changes_earlier_text(bidirectional_model: Model, speech: Floats) -> None:
    events = bidirectional_model.session(source="de", k=1, l=2, segments=SegmentConfig(pause_s=0)).feed(speech[:48000])
    first = [event for event in events if isinstance(event, TextEvent)]
    assert len(first) > 3
    one = written(bidirectional_model, speech[:80000], 1000, k=1, l=2)
    other = written(bidirectional_model, np.concatenate([speech[:48000], 0.01 * speech[:32000]]), 1000, k=1, l=2)
    assert one[: len(first)] == other[: len(first)] == first
    assert one != other


def test_the_first_token_waits_for_the_right_context(bidirectional_model: Model, speech: Floats) -> None:
    session = bidirectional_model.session(source="de", k=3, l=4, segments=SegmentConfig(pause_s=0))
    heard = 0
    while not session._answers.all[0].words:
        session.feed(speech[heard : heard + 80])
        heard += 80
    assert heard / 16000 == pytest.approx((3 * 4 + 13) * 0.08, abs=0.02)


@torch.no_grad()
def test_offline_text_is_pytorchs(bidirectional_model: Model, bidirectional_torch_model: Any, speech: Floats) -> None:
    model, samples = recorded(bidirectional_model), speech[: 3 * 16000 + 77]
    mel = torch.from_numpy(log_mel(samples, model.config.features))
    encoded = bidirectional_torch_model.encode(mel[None], torch.tensor([len(mel)]))
    prompt = list(model.manifest.prompts["de-de"])
    text, steps = list(prompt), encoded.steps.shape[1]
    while len(text) - len(prompt) < steps + SPARE_TOKENS:
        visible = torch.tensor([[0] * (len(prompt) - 1) + [steps] * (len(text) - len(prompt) + 1)])
        token = int(bidirectional_torch_model(torch.tensor([text]), encoded, visible).logits[0, -1].argmax())
        if token in model.manifest.end_ids:
            break
        text.append(token)
    session = model.session(source="de", policy=Offline(), segments=SegmentConfig(pause_s=0))
    assert session.feed(samples) == []
    session.finish()
    got = model.opened[0].tokens
    assert len(got) > 3
    assert got == text[len(prompt) :]


def test_offline_a_window_is_encoded_a_few_times_only(
    remake_bidirectional: Callable[..., Model], speech: Floats
) -> None:
    silent = remake_bidirectional(end_ids=tuple(range(300)))  # every token ends the answer
    graph = RecordedGraph(silent.graphs[GRAPH])
    silent.take_graphs({**silent.graphs, GRAPH: graph})
    written(silent, np.tile(speech, 6), 1600, policy=Offline())  # 36 s, the window has 30
    assert graph.frames == [8 * steps for steps in (181 + 13, 2 * 181 + 13, 375)]


def test_golden_inputs_are_verified(bidirectional_model: Model) -> None:
    rows = verify(bidirectional_model.directory)
    assert [row.graph for row in rows] == ["encoder_window", "adapter_step", "llm_step"]
    assert all(row.passed for row in rows)


def test_another_look_ahead_is_refused(bidirectional_model: Model) -> None:
    with pytest.raises(ConfigError, match=r"lookahead 1: this model has 13$"):
        bidirectional_model.session(source="de", lookahead=1)
    assert bidirectional_model.session(source="de", lookahead=13).lookahead == 13
