"""Every way of speech into the LLM's sequence: the stream equals PyTorch, is causal, and runs no speech twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import write_scored as write
from speech_llms import VARIANTS, save_speech_llm, torch_answer

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.policy import LocalAgreement, Offline
from bestow_edge.core.tensors import INPUTS_EMBEDS
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.runtime.devices.base import Buffer
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.events import Decision
from bestow_edge.runtime.stream.listener import Listener

POLICY = LocalAgreement(2, 4)
SEES_ALL = ("conformer", "blanks", "non-causal")
"""Variants whose speech runs again when there is more: their encoder or their mask makes all of it depend on all."""


@pytest.fixture(scope="module", params=VARIANTS)
def directory(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_model: Callable[..., Any],
    model_config: Callable[..., ModelConfig],
    bidirectional_config: Callable[..., ModelConfig],
) -> Path:
    """Checkpoint and bundle of a variant."""
    encoder, connector = VARIANTS[request.param]
    base = {"chunked": model_config, "windowed": bidirectional_config}[encoder]
    directory = tmp_path_factory.mktemp(request.param)
    save_speech_llm(base, make_model, connector, directory / "checkpoint")
    export_bundle(directory / "checkpoint", directory / "bundle", precision="fp32", progress=lambda _: None)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    return load(directory / "bundle", threads=1)


def heard(model: Model, waveform: np.ndarray) -> Any:
    """Return a decoder that has heard all of it, chunk by chunk, and written a draft after each."""
    right_context = model.config.encoder.default_right_context
    listener = Listener(model.open_encoder(model.graphs, [Offline()], right_context), None)
    decoder = model.open_decoder(model.graphs, [model.manifest.prompts["en-de"]])
    listener.add(waveform)
    listener.end()
    while listener.has_chunk:
        decoder.hear(listener.next_chunk())
        with decoder.rehearsal():
            write(decoder, 2)
    return decoder


def decisions(model: Model, waveform: np.ndarray, block: int) -> list[Decision]:
    made: list[Decision] = []
    with model.multi_session([("en-en", POLICY)]) as session:
        session.on_decision = made.append
        for start in range(0, len(waveform), block):
            session.feed(waveform[start : start + block])
    return [one for one in made if one.verdict == "write"]


def test_the_stream_equals_pytorch(directory: Path, model: Model, speech: np.ndarray) -> None:
    checkpoint = load_checkpoint(directory / "checkpoint")
    for waveform in (speech, speech[:20_000]):
        got = write(heard(model, waveform), 12)
        want = torch_answer(checkpoint, list(model.manifest.prompts["en-de"]), waveform, 12)
        assert [token for token, _ in got] == [token for token, _ in want]
        np.testing.assert_allclose([value for _, value in got], [value for _, value in want], atol=2e-3)


def test_the_speech_matters(model: Model, speech: np.ndarray) -> None:
    assert write(heard(model, speech), 6) != write(heard(model, speech[::-1].copy()), 6)


def test_later_audio_never_changes_earlier_text(model: Model, speech: np.ndarray) -> None:
    early, late = decisions(model, speech[:64_000], 8_000), decisions(model, speech, 777)
    assert early
    assert late[: len(early)] == early


def test_two_sessions_do_not_mix(model: Model, speech: np.ndarray) -> None:
    streams = speech, speech[::-1].copy()
    alone = [written_by_turns(model, [samples])[0] for samples in streams]
    assert written_by_turns(model, streams) == alone
    assert alone[0] != alone[1]


def written_by_turns(model: Model, streams: Sequence[np.ndarray]) -> list[list[tuple[int, float]]]:
    """Feed several sessions in turns and return the tokens of each with their log-probabilities."""
    sessions = [model.multi_session([("en-en", POLICY)]) for _ in streams]
    made: list[list[Decision]] = [[] for _ in streams]
    for session, own in zip(sessions, made, strict=True):
        session.on_decision = own.append
    for start in range(0, len(streams[0]), 16_000):
        for session, samples in zip(sessions, streams, strict=True):
            session.feed(samples[start : start + 16_000])
    for session in sessions:
        session.finish()
    return [[(one.token_id, one.log_prob) for one in own if one.verdict == "write"] for own in made]


def test_only_the_text_behind_the_speech_runs_again(
    model: Model, speech: np.ndarray, request: pytest.FixtureRequest
) -> None:
    """Each position of speech goes through the LLM once; each attempt behind new speech runs the rest of the text."""
    if request.node.callspec.params["directory"] in SEES_ALL:
        pytest.skip("more speech changes all of it")
    prompt = list(model.manifest.prompts["en-en"])
    encoder = model.open_encoder(model.graphs, [POLICY], 1)
    listener, decoder = Listener(encoder, None), model.open_decoder(model.graphs, [prompt])
    ran: list[int] = []
    run = decoder._llm.run

    def counted(feeds: Mapping[str, Buffer], number: int) -> Mapping[str, Buffer]:
        ran.append(feeds[INPUTS_EMBEDS].shape[1])
        return run(feeds, number)

    decoder._llm.run = counted
    listener.add(speech)
    chunks = 0
    while listener.has_chunk:
        decoder.hear(listener.next_chunk())
        with decoder.rehearsal():
            write(decoder, 3)
        chunks += 1
    behind = len(prompt) - 1 - prompt.index(model.config.connector.mark_id or 0)
    assert chunks > 20
    assert sum(ran) == positions(decoder) + chunks * (behind - 1 + 3)


def positions(decoder: Any) -> int:
    """Return the positions that speech takes."""
    return len(decoder._speech.embeds)
