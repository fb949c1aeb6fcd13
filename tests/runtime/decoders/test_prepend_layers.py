"""Connectors that read several layers, at run time: equal to NeMo; each encoding of a Q-Former replaces the speech."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoding import write_scored as write
from salm_files import SALMS, make_qformer

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.features import log_mel, normalize_frames
from bestow_edge.core.policy import LocalAgreement, Offline, Policy
from bestow_edge.core.tensors import SPEECH_EMBEDS
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whole import init_whole
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.events import Decision
from bestow_edge.runtime.stream.listener import Listener
from bestow_edge.runtime.stream.session import Session

QUERIES, BLOCK = 6, 12
POLICIES = [LocalAgreement(2, BLOCK), LocalAgreement(2, 4), Offline()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and bundles of both connectors."""
    directory = tmp_path_factory.mktemp("tapped")
    for name, source in {"layers": SALMS / "layers", "qformer": make_qformer(directory)}.items():
        checkpoint = directory / f"{name}-checkpoint"
        init_whole(WholeRequest(source=str(source)), checkpoint, progress=lambda _: None)
        export_bundle(checkpoint, directory / f"{name}-bundle", precision="fp32", progress=lambda _: None)
    return directory


@pytest.fixture(scope="module")
def models(directory: Path) -> dict[str, Model]:
    return {name: load(directory / f"{name}-bundle", threads=1) for name in ("layers", "qformer")}


@pytest.fixture
def qformer(models: dict[str, Model]) -> Model:
    return models["qformer"]


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    samples: np.ndarray = np.load(SALMS / "salm.npz")["waveform"]
    return samples


def written(session: Session, waveform: np.ndarray, block: int = 8_000) -> list[Decision]:
    """Feed all of it and return the decisions to write."""
    decisions: list[Decision] = []
    session.on_decision = decisions.append
    for start in range(0, len(waveform), block):
        session.feed(waveform[start : start + block])
    return [one for one in decisions if one.verdict == "write"]


def near(left: list[tuple[int, float]], right: list[tuple[int, float]]) -> bool:
    """Return whether tokens and log-probabilities are the same."""
    return bool(np.allclose(left, right, atol=1e-5))


def listening(model: Model, waveform: np.ndarray, policy: Policy) -> Listener[Any]:
    right_context = model.config.encoder.default_right_context
    listener = Listener(model.open_encoder(model.graphs, [policy], right_context), None)
    listener.add(waveform)
    return listener


def opened(model: Model) -> Any:
    return model.open_decoder(model.graphs, [model.manifest.prompts["en-en"]])


@pytest.mark.parametrize("name", ["layers", "qformer"])
def test_greedy_tokens_equal_nemo(name: str, models: dict[str, Model], waveform: np.ndarray) -> None:
    want, decoder = np.load(SALMS / f"{name}.npz"), opened(models[name])
    (speech,) = listening(models[name], waveform, Offline()).rest()
    np.testing.assert_allclose(speech.tensors[SPEECH_EMBEDS][0], want["projected"], atol=1e-4)
    decoder.hear(speech)
    assert [token for token, _ in write(decoder, 24)] == want["answer_ids"].tolist()
    assert decoder.heard == 76


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("name", ["layers", "qformer"])
def test_blocks_make_no_difference(name: str, policy: Policy, models: dict[str, Model], waveform: np.ndarray) -> None:
    texts = []
    for block in (97_000, 777):
        with models[name].multi_session([("en-en", policy)]) as session:
            decisions = written(session, waveform, block)
            texts.append([(one.token_id, one.log_prob, one.visible_steps) for one in decisions])
            events = session.finish()
    assert texts[0] == texts[1]
    assert len(texts[0]) + len(events) > 20


@pytest.mark.parametrize("policy", POLICIES[:2], ids=str)
@pytest.mark.parametrize("name", ["layers", "qformer"])
def test_later_audio_never_changes_earlier_text(
    name: str, policy: Policy, models: dict[str, Model], waveform: np.ndarray
) -> None:
    early, late = (models[name].multi_session([("en-en", policy)]) for _ in range(2))
    first = written(early, waveform[:64_000])
    assert first
    assert written(late, waveform)[: len(first)] == first


def test_each_encoding_replaces_the_speech(qformer: Model, waveform: np.ndarray) -> None:
    listener, decoder = listening(qformer, waveform, LocalAgreement(2, BLOCK)), opened(qformer)
    sure = []
    while listener.has_chunk:
        speech = listener.next_chunk()
        assert (speech.start, speech.tensors[SPEECH_EMBEDS].shape) == (0, (1, QUERIES, 32))
        decoder.hear(speech)
        fresh = opened(qformer)
        fresh.hear(speech)
        with decoder.rehearsal():
            texts = write(decoder, 6), write(fresh, 6)
        assert near(*texts)
        sure.append(texts[0][0][1])
    assert len(sure) == 6
    assert np.ptp(sure) > 0.01  # so that stale speech would show
    assert decoder.num_tokens == fresh.num_tokens - 6


def test_supposed_speech_is_forgotten(qformer: Model, waveform: np.ndarray) -> None:
    listener, decoder = listening(qformer, waveform[:32_000], LocalAgreement(2, BLOCK)), opened(qformer)
    decoder.hear(listener.next_chunk())
    with decoder.rehearsal():
        want = write(decoder, 6)
    listener.add(waveform[32_000:])
    with decoder.supposing(listener.rest()):
        assert decoder.heard == 76
        with decoder.rehearsal():
            assert not near(write(decoder, 6), want)
        assert decoder.branch([qformer.manifest.prompts["en-en"]] * 2).heard == 76
    assert decoder.heard == BLOCK
    with decoder.supposing([]):
        pass
    assert near(write(decoder, 6), want)


@torch.no_grad()
def test_a_shortened_segment_is_encoded_again(directory: Path, qformer: Model, waveform: np.ndarray) -> None:
    listener = listening(qformer, waveform, LocalAgreement(2, BLOCK))
    while listener.has_chunk:
        listener.next_chunk()
    (speech,) = listener.shortened(30)
    model = load_checkpoint(directory / "qformer-checkpoint")
    features = model.config.features
    frames = normalize_frames(log_mel(waveform, replace(features, normalize="none"))[:240], features)
    (want,) = speech_side(model)(model.encode(torch.from_numpy(frames)[None], torch.tensor([240])).steps)
    assert (speech.start, speech.end) == (0, 30)
    np.testing.assert_allclose(speech.tensors[SPEECH_EMBEDS], want, atol=1e-3)


@pytest.mark.parametrize(
    ("policy", "heard", "cut"),
    [(LocalAgreement(2, BLOCK), 84, range(72, 84)), (Offline(), 75, range(62, 68))],
    ids=["local-agreement", "offline"],
)
def test_the_text_before_a_cut_is_about_nothing_behind(
    qformer: Model, waveform: np.ndarray, policy: Policy, heard: int, cut: range
) -> None:
    """Half a second of silence begins at step 62. A segment of 75 steps ends there, or behind what was written."""
    long = np.tile(waveform[:96_000], 2)
    long[79_360:87_360] *= 1e-4
    session = qformer.session(source="en", policy=policy, segments=SegmentConfig(max_s=6.0))
    decisions = [one for one in written(session, long) if one.segment == 0]
    last = decisions[-1].visible_steps
    assert last in cut
    ending = [one for one in decisions if one.visible_steps == last]
    assert len(ending) > 1
    assert {round(one.time_s / 0.08) for one in ending} == {heard}
    decoder = opened(qformer)
    decoder.hear(*listening(qformer, long, policy).shortened(last))
    for one in decisions:
        (attempt,) = decoder.attempt([last])
        assert one not in ending or near([(attempt.token_id, attempt.log_prob)], [(one.token_id, one.log_prob)])
        decoder.commit(0, one.token_id)


@pytest.mark.parametrize(("policy", "steps"), [(LocalAgreement(2, BLOCK), 492), (LocalAgreement(2, 60), 480)], ids=str)
def test_a_segment_is_no_longer_than_the_window(qformer: Model, policy: Policy, steps: int) -> None:
    """The window holds 41 blocks of 12 steps, or 8 of 60; a Q-Former's speech takes few positions of the context."""
    session = qformer.session(source="en", policy=policy, segments=SegmentConfig(max_s=200.0))
    assert session._limits.most_steps == steps
    assert session._limits.most_tokens == 2048 - len(qformer.manifest.prompts["en-en"]) - 1 - QUERIES
