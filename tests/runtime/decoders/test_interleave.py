"""Connector kind `interleave` at run time: a stream equals whole sequences in PyTorch, and needs constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoding import decisions
from interleaved import interleaved_config, simulate, with_blanks

from bestow_edge.core.config import ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import AlignAtt, EveryStep, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.request import Request
from bestow_edge.core.specs.interleave import SPEECH_EMBEDS, InterleaveConfig, delay_token
from bestow_edge.core.tensors import INPUTS_EMBEDS
from bestow_edge.export.agreement import agreement, answer, read_recordings
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.decoders.interleave import InterleaveDecoder
from bestow_edge.runtime.encoders.base import SpeechSteps
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import verify
from bestow_edge.runtime.records.replay import replay
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.events import Decision

if TYPE_CHECKING:
    from bestow_edge.model.base import SpeechModel

Floats = np.ndarray[Any, np.dtype[np.float32]]
POLICY = EveryStep(l=2, delay=4)


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, model_config: Callable[..., ModelConfig], save_random: Callable[..., Path]
) -> Path:
    directory = tmp_path_factory.mktemp("interleave") / "checkpoint"
    return save_random(lambda vocab: interleaved_config(model_config(vocab)), directory)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return with_blanks(bundle)


def random_steps(model: Model, count: int, first: int, seed: int = 0) -> SpeechSteps:
    """Return random embeddings of some steps."""
    embeds = np.random.default_rng(seed).standard_normal((1, count, model.config.llm["hidden_size"]))
    return SpeechSteps({SPEECH_EMBEDS: embeds.astype(np.float32)}, first, first + count)


def opened(model: Model, policies: Sequence[EveryStep] = (POLICY,)) -> InterleaveDecoder:
    """Return a decoder of one prompt under some policies."""
    prompt = model.manifest.prompts["en-en"]
    decoder = model.open_decoder(model.graphs, [prompt + model.condition(policy) for policy in policies])
    assert isinstance(decoder, InterleaveDecoder)
    return decoder


@pytest.mark.parametrize("policy", [POLICY, EveryStep(l=2, delay=1, blank_bias=-1.5, most_tokens=3)])
@pytest.mark.parametrize("lookahead", [13, 1])
def test_a_stream_equals_whole_sequences(
    model: Model, torch_model: SpeechModel, speech: Floats, policy: EveryStep, lookahead: int
) -> None:
    waveform = speech[:32_000]
    want = simulate(torch_model, model, waveform, policy, lookahead)
    got = decisions(model.session(source="en", policy=policy, lookahead=lookahead), waveform, 3_000)
    assert [(one.visible_steps, one.token_id) for one in got] == [(visible, token) for visible, token, _ in want]
    np.testing.assert_allclose([one.log_prob for one in got], [value for _, _, value in want], atol=1e-3)
    assert {one.verdict for one in got} >= {"write", "pause"}
    assert got[-1].visible_steps == 27  # 26 steps and the mark of the end


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


def test_delay_and_bias_change_the_text(model: Model, speech: Floats) -> None:
    """More bias, fewer tokens; the delay is heard by the LLM."""
    written = []
    for policy in (POLICY, EveryStep(l=2, delay=1), *(EveryStep(l=2, delay=4, blank_bias=bias) for bias in (-4, 100))):
        found = decisions(model.session(source="en", policy=policy), speech[:32_000], 4_000, finish=False)
        written.append([one.token_id for one in found if one.verdict == "write"])
    default, sooner, eager, silent = written
    assert default != sooner
    assert len(eager) > len(default) > len(silent) == 0


def test_two_sessions_do_not_mix(model: Model, speech: Floats) -> None:
    waveforms = speech[:32_000], speech[40_000:72_000]
    want = [decisions(model.session(source="en"), waveform, 4_000) for waveform in waveforms]
    sessions = [model.session(source="en") for _ in waveforms]
    found: list[list[Decision]] = [[], []]
    for session, kept in zip(sessions, found, strict=True):
        session.on_decision = kept.append
    for start in range(0, 32_000, 4_000):
        for session, waveform in zip(sessions, waveforms, strict=True):
            session.feed(waveform[start : start + 4_000])
    for session in sessions:
        session.finish()
    assert found == want


def test_two_prompts_equal_one_each(model: Model, speech: Floats) -> None:
    """Rows of one batch have turns and delays of their own."""
    asked = [("en-en", POLICY), ("en-de", EveryStep(l=4, delay=1))]
    both = decisions(model.multi_session(asked), speech[:32_000], 4_000)
    for row, prompt in enumerate(asked):
        (alone,) = [decisions(model.multi_session([prompt]), speech[:32_000], 4_000)]
        mine = [one for one in both if one.prompt == row]
        assert [(one.visible_steps, one.token_id) for one in mine] == [(a.visible_steps, a.token_id) for a in alone]


def test_drafts_leave_nothing_behind(model: Model, speech: Floats) -> None:
    want = decisions(model.session(source="en"), speech[:32_000], 4_000)
    session, found = model.session(source="en"), list[Decision]()
    session.on_decision = found.append
    for start in range(0, 32_000, 4_000):
        session.feed(speech[start : start + 4_000])
        session.draft()
    session.finish()
    assert found == want


def test_an_hour_in_constant_memory(bundle: Path) -> None:
    """45,000 steps, with a token after every fourth turn: buffers, sequences and waiting speech stay small."""
    model = with_blanks(bundle, window=64)
    decoder = opened(model)
    sizes, positions = set(), 0
    run = decoder._llm.run

    def counted(feeds: Any, number: int) -> Any:
        nonlocal positions
        positions += feeds[INPUTS_EMBEDS].shape[1]
        return run(feeds, number)

    decoder._llm.run = counted  # type: ignore[method-assign]  # counts what runs
    for turn in range(45_000 // 50):  # turns of 50 steps: the positions are those of turns of any length
        decoder.hear(random_steps(model, 50, 50 * turn, seed=turn % 7))
        for visible in range(50 * turn + 10, 50 * turn + 51, 10):
            decoder.attempt([visible])
            if visible % 40 == 0:
                decoder.commit(0, 7)
        sizes.add(next(iter(decoder._llm._buffers.values())).shape[-2])
        assert len(decoder._rows[0].embeds) <= 64
        assert not decoder._steps
    assert decoder.heard == 45_000
    assert max(sizes) <= 128
    assert positions <= 2.5 * (45_000 + 45_000 / 40)


def test_a_full_window_keeps_the_prompt_and_the_newest_turns(bundle: Path, torch_model: SpeechModel) -> None:
    """Behind the window's end, a token is that of a stream that began with the turns that are left."""
    model = with_blanks(bundle, window=100)
    decoder, steps = opened(model), random_steps(model, 200, 0)
    decoder.hear(steps)
    for visible in range(2, 201, 2):
        (late,) = decoder.attempt([visible])
        if visible % 10 == 0:
            decoder.commit(0, 20 + visible % 7)
    row = decoder._rows[0]
    assert row.dropped > 1
    assert row.prompt_len + len(row.embeds) <= 100
    words = torch_model.llm.get_input_embeddings()
    import torch

    with torch.no_grad():
        prompt = [*model.manifest.prompts["en-en"]]
        begin = torch.cat([words(torch.tensor(prompt)), torch_model.connector.delays.weight[1:]])
        sequence = torch.cat([begin, torch.from_numpy(np.stack(row.embeds[: row.cached]))])
        logits = torch_model.llm(inputs_embeds=sequence[None]).logits[0, -1].log_softmax(-1)
    np.testing.assert_allclose(late.log_probs, logits.numpy(), atol=1e-3)


def test_a_trace_replays(model: Model, speech: Floats, tmp_path: Path) -> None:
    policy = EveryStep(l=2, delay=1, blank_bias=-0.5)
    with Tracer(model.session(source="en", policy=policy), tmp_path / "talk.trace") as session:
        for start in range(0, 48_000, 5_000):
            session.feed(speech[start : start + 5_000])
        session.finish()
    trace = read_trace(tmp_path / "talk.trace")
    assert trace.policies == [policy]
    assert replay(trace, model) == list(trace.events)


def test_the_whole_file_gives_the_text_of_the_stream(model: Model, speech: Floats) -> None:
    """No policy waits for the end, so `run` without `--stream` writes the same text."""
    texts = []
    for stream in (True, False):
        session = model.open(Request(lang="en-en", stream=stream))
        events = session.feed(speech[:32_000]) + session.finish()
        texts.append("".join(event.text for event in events))
    assert texts[0] == texts[1]


def test_verify_and_agreement(bundle: Path, model: Model) -> None:
    assert all(row.passed for row in verify(bundle))
    recordings = read_recordings(sample_manifest(), model)[:2]
    texts = [answer(model, recording) for recording in recordings]
    assert all(texts)
    assert agreement(model, recordings, texts) == 1.0


@pytest.mark.parametrize("policy", [WaitK(3, 4), AlignAtt(), Offline(), LocalAgreement(), Policy()])
def test_policies_that_it_cannot_follow(model: Model, policy: Policy) -> None:
    with pytest.raises(ConfigError, match=r"with connector interleave cannot follow it; use every-step$"):
        model.multi_session([("en-en", policy)])


def test_wrong_settings(model: Model, model_config: Callable[..., ModelConfig], bundle: Path) -> None:
    with pytest.raises(ConfigError, match="delay 3; this model was trained with 1, 4 steps"):
        model.session(source="en", policy=EveryStep(l=2, delay=3))
    with pytest.raises(ConfigError, match="blank_bias is 1000; expected -100 to 100"):
        EveryStep(blank_bias=1000)
    with pytest.raises(ConfigError, match="window 300; expected at most the LLM's context of 200"):
        interleaved_config(model_config(), window=300)
    with pytest.raises(ConfigError, match=r"delays \[4, 1\]; expected steps from 0, ascending"):
        InterleaveConfig(delays=(4, 1))
    with pytest.raises(ConfigError, match="name wait-k; connector interleave decides itself when it writes: set every"):
        InterleaveConfig().check_policy(PolicyConfig())
    with pytest.raises(ConfigError, match="expected fewer than 8, a quarter of the window of 32 positions"):
        with_blanks(bundle, window=32).session(source="en")


def test_no_beam(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"beam_size 2: expected 1, or more with Offline\(\)"):
        model.open(Request(lang="en-en", stream=False, beam_size=2))


def test_other_connectors_refuse_the_policy(tiny_bundle: Path) -> None:
    from bestow_edge.runtime.model import load

    with pytest.raises(ConfigError, match="policy every-step: a model with connector cross_adapter cannot follow it"):
        load(tiny_bundle, threads=1).session(source="en", policy=EveryStep())


def test_the_delay_stands_behind_the_prompt(model: Model) -> None:
    assert model.condition(EveryStep(l=2, delay=1)) == (delay_token(model.config, 1),)
    assert delay_token(model.config, 4) == model.config.llm["vocab_size"] + 1
