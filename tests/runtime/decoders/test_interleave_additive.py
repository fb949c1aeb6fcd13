"""The additive form of connector `interleave`: a stream equals whole sequences in PyTorch, a token for each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoding import decisions
from interleaved import additive_config, simulate_additive, with_blanks

from bestow_edge.core.config import ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import EveryStep
from bestow_edge.core.specs.interleave import SPEECH_EMBEDS, InterleaveConfig
from bestow_edge.export.agreement import agreement, answer, read_recordings
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.decoders.interleave import AdditiveDecoder
from bestow_edge.runtime.encoders.base import SpeechSteps
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import verify
from bestow_edge.runtime.records.replay import replay
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.events import Decision

if TYPE_CHECKING:
    from bestow_edge.model.base import SpeechModel

Floats = np.ndarray[Any, np.dtype[np.float32]]
POLICY = EveryStep(l=1, delay=4, most_tokens=1)


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, model_config: Callable[..., ModelConfig], save_random: Callable[..., Path]
) -> Path:
    directory = tmp_path_factory.mktemp("additive") / "checkpoint"
    return save_random(lambda vocab: additive_config(model_config(vocab)), directory)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return with_blanks(bundle)


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, delay=1, blank_bias=-1.5)])
@pytest.mark.parametrize("lookahead", [13, 1])
def test_a_stream_equals_whole_sequences(
    model: Model, torch_model: SpeechModel, speech: Floats, policy: EveryStep, lookahead: int
) -> None:
    waveform = speech[:32_000]
    want = simulate_additive(torch_model, model, waveform, policy, lookahead)
    got = decisions(model.session(source="en", policy=policy, lookahead=lookahead), waveform, 3_000)
    assert [(one.visible_steps, one.token_id) for one in got] == [(visible, token) for visible, token, _ in want]
    np.testing.assert_allclose([one.log_prob for one in got], [value for _, _, value in want], atol=1e-3)
    assert {one.verdict for one in got} == {"write", "pause"}
    steps = [one.visible_steps for one in got]
    assert steps[:27] == list(range(1, 28)), "a decision for each of 26 steps and the mark"
    assert set(steps[27:]) <= {27}


def test_the_torch_model_sees_the_same_sequence(torch_model: SpeechModel, model: Model, speech: Floats) -> None:
    """One forward pass over all positions gives the log-probabilities of the stream."""
    import torch

    from bestow_edge.core.features import log_mel
    from bestow_edge.core.specs.interleave import delay_token

    waveform, end = speech[:24_000], model.manifest.end_ids
    got = decisions(model.session(source="en"), waveform, 3_000)
    tokens = [end[0] if one.token_id in end else one.token_id for one in got]
    ids = [*model.manifest.prompts["en-en"], delay_token(model.config, 4)]
    visible = [0] * len(ids) + [one.visible_steps for one in got]
    sequence = [*ids, end[0], *tokens[:-1]]
    mel = torch.from_numpy(log_mel(waveform, model.config.features))
    with torch.no_grad():
        heard = torch_model.encode(mel[None], torch.tensor([mel.shape[0]]), model.config.encoder.default_right_context)
        logits = torch_model(torch.tensor([sequence]), heard, torch.tensor([visible])).logits[0, len(ids) :]
    own = logits.log_softmax(-1)[torch.arange(len(got)), torch.tensor([one.token_id for one in got])]
    np.testing.assert_allclose([one.log_prob for one in got], own.numpy(), atol=1e-3)


def test_later_audio_never_changes_earlier_text(model: Model, speech: Floats) -> None:
    rng = np.random.default_rng(1)
    for cut in rng.integers(20_000, 60_000, 3).tolist():
        other = np.concatenate([speech[:cut], rng.standard_normal(40_000).astype(np.float32) * 0.1])
        first, second = (
            decisions(model.session(source="en"), audio, size, finish=False)
            for audio, size in ((speech, 1_111), (other, 50_000))
        )
        safe = cut / 16_000 - 0.08 - (model.config.encoder.default_right_context + 1) * 0.08
        early, again = ([one for one in found if one.time_s <= safe] for found in (first, second))
        assert early == again
        assert early


def test_prompts_sessions_and_drafts_do_not_mix(model: Model, speech: Floats) -> None:
    waveform = speech[:32_000]
    asked = [("en-en", POLICY), ("en-de", replace(POLICY, delay=1))]
    alone = [decisions(model.multi_session([prompt]), waveform, 4_000) for prompt in asked]
    session, found = model.multi_session(asked), list[Decision]()
    session.on_decision = found.append
    for start in range(0, len(waveform), 4_000):
        session.feed(waveform[start : start + 4_000])
        session.draft()
    session.finish()
    for row, want in enumerate(alone):
        mine = [(one.visible_steps, one.token_id) for one in found if one.prompt == row]
        assert mine == [(one.visible_steps, one.token_id) for one in want]


def test_an_hour_in_constant_memory(bundle: Path) -> None:
    """45,000 steps, a token at every fourth: buffers, sequences and waiting speech stay small."""
    model = with_blanks(bundle, window=64)
    decoder = model.open_decoder(model.graphs, [model.manifest.prompts["en-en"] + model.condition(POLICY)])
    assert isinstance(decoder, AdditiveDecoder)
    embeds = np.random.default_rng(0).standard_normal((1, 50, model.config.llm["hidden_size"])).astype(np.float32)
    sizes = set()
    for first in range(0, 45_000, 50):
        decoder.hear(SpeechSteps({SPEECH_EMBEDS: embeds}, first, first + 50))
        for visible in range(first + 10, first + 51, 10):
            decoder.attempt([visible])
            if visible % 40 == 0:
                decoder.commit(0, 7)
        sizes.add(next(iter(decoder._llm._buffers.values())).shape[-2])
        assert len(decoder._rows[0].embeds) <= 64
        assert not decoder._steps
    assert decoder.heard == 45_000
    assert max(sizes) <= 128


def test_silence_and_nothing(model: Model) -> None:
    for samples in (0, 100, 1_300, 16_000):
        found = decisions(model.session(source="en"), np.zeros(samples, dtype=np.float32), 800)
        assert [one.visible_steps for one in found] == sorted(one.visible_steps for one in found)
        assert bool(found) == (samples >= 1_300)


def test_a_trace_replays_and_the_bundle_verifies(bundle: Path, model: Model, speech: Floats, tmp_path: Path) -> None:
    with Tracer(model.session(source="en", policy=replace(POLICY, delay=1)), tmp_path / "talk.trace") as session:
        for start in range(0, 48_000, 5_000):
            session.feed(speech[start : start + 5_000])
        session.finish()
    trace = read_trace(tmp_path / "talk.trace")
    assert replay(trace, model) == list(trace.events)
    assert all(row.passed for row in verify(bundle))
    recordings = read_recordings(sample_manifest(), model)[:2]
    texts = [answer(model, recording) for recording in recordings]
    assert all(texts)
    assert agreement(model, recordings, texts) == 1.0


def test_more_than_a_token_a_step_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="l 4, most_tokens 8; connector interleave in its additive form writes at mo"):
        InterleaveConfig(form="additive").check_policy(PolicyConfig(name="every-step"))
    with pytest.raises(ConfigError, match="l 1, most_tokens 8; connector interleave in its additive form"):
        model.session(source="en", policy=EveryStep(l=1, delay=4))
