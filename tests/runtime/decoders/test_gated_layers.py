"""Connector kind `gated_layers` at run time: a stream equals whole sequences in PyTorch, under every policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoding import decisions
from simulated import simulate

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.request import Request
from bestow_edge.core.specs.gated_layers import GatedLayersConfig
from bestow_edge.export.agreement import agreement, answer, read_recordings
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import verify
from bestow_edge.runtime.records.replay import replay
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.events import Decision

if TYPE_CHECKING:
    from bestow_edge.model.base import SpeechModel

Floats = np.ndarray[Any, np.dtype[np.float32]]
POLICIES = [WaitK(3, 4), WaitK(1, 2), AlignAtt(threshold=2, l=2), LocalAgreement(4), Offline()]


def gated(config: ModelConfig, **fields: Any) -> ModelConfig:
    """Return a config with this connector in place of another one, and with four layers of the LLM."""
    connector = GatedLayersConfig(**({"every": 2, "num_heads": 2, "ffn_factor": 3} | fields))
    return replace(config, connector=connector, llm=config.llm | {"num_hidden_layers": 4})


@pytest.fixture(scope="module", params=["chunked", "windowed"])
def checkpoint(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_config: Callable[..., ModelConfig],
    bidirectional_config: Callable[..., ModelConfig],
    save_random: Callable[..., Path],
) -> Path:
    base = model_config if request.param == "chunked" else bidirectional_config
    directory = tmp_path_factory.mktemp("gated") / "checkpoint"
    return save_random(lambda vocab: gated(base(vocab)), directory)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    """The bundle with an eighth of its tokens as end tokens, so that random weights pause too."""
    manifest = replace(read_manifest(bundle), end_ids=tuple(range(0, 300, 8)))
    return Model(bundle, manifest, device="cpu", threads=1)


@pytest.mark.parametrize("policy", [WaitK(3, 4), WaitK(1, 2), Offline()], ids=str)
def test_a_stream_equals_whole_sequences(
    model: Model, torch_model: SpeechModel, speech: Floats, policy: Policy
) -> None:
    """With an encoder of chunks; a bidirectional one changes steps as it hears more."""
    if model.config.encoder.kind != "chunked":
        pytest.skip("its stream is not that of whole audio")
    waveform = speech[: 3 * 16_000]
    tokens, attempts = simulate(torch_model, model, waveform, policy, 6)
    got = decisions(model.session(source="de", policy=policy, lookahead=6), waveform, 700)
    assert [(one.visible_steps, one.token_id) for one in got] == attempts
    assert [one.token_id for one in got if one.verdict == "write"] == tokens
    assert len(set(tokens)) > 2


def test_offline_text_equals_pytorch(model: Model, torch_model: SpeechModel, speech: Floats) -> None:
    waveform = speech[: 2 * 16_000]
    lookahead = model.config.encoder.default_right_context
    tokens, _ = simulate(torch_model, model, waveform, Offline(), lookahead)
    got = decisions(model.session(source="de", policy=Offline()), waveform, len(waveform))
    assert [one.token_id for one in got if one.verdict == "write"] == tokens


@pytest.mark.parametrize("policy", POLICIES[:4], ids=str)
def test_later_audio_never_changes_earlier_text(model: Model, speech: Floats, policy: Policy) -> None:
    """Text is what was written before the audio became another; no block size changes it."""
    other = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    first = decisions(model.session(source="de", policy=policy), speech[:48_000], 1_100)
    again = decisions(model.session(source="de", policy=policy), speech[:48_000], 48_000)
    written = [
        [(one.token_id, one.visible_steps) for one in found if one.verdict == "write"] for found in (first, again)
    ]
    if isinstance(policy, WaitK):
        assert written[0] == written[1]
    changed = decisions(
        model.session(source="de", policy=policy), np.concatenate([speech[:48_000], other]), 1_100, finish=False
    )
    before = decisions(model.session(source="de", policy=policy), speech[:48_000], 1_100, finish=False)
    count = len(before)
    assert [one.token_id for one in changed[:count]] == [one.token_id for one in before]


def test_two_sessions_do_not_mix(model: Model, speech: Floats) -> None:
    waveforms = speech[:32_000], speech[40_000:72_000]
    want = [decisions(model.session(source="de"), waveform, 4_000) for waveform in waveforms]
    sessions = [model.session(source="de") for _ in waveforms]
    found: list[list[Decision]] = [[], []]
    for session, kept in zip(sessions, found, strict=True):
        session.on_decision = kept.append
    for start in range(0, 32_000, 4_000):
        for session, waveform in zip(sessions, waveforms, strict=True):
            session.feed(waveform[start : start + 4_000])
    for session in sessions:
        session.finish()
    for got, alone in zip(found, want, strict=True):
        assert [(one.token_id, one.visible_steps) for one in got] == [
            (one.token_id, one.visible_steps) for one in alone
        ]


def test_two_prompts_equal_one_each(model: Model, speech: Floats) -> None:
    """Rows of one batch have policies and prompts of their own."""
    asked: list[tuple[str, Policy]] = [("de-de", WaitK(3, 4)), ("de-en", WaitK(1, 2))]
    both = decisions(model.multi_session(asked), speech[:32_000], 4_000)
    for row, prompt in enumerate(asked):
        alone = decisions(model.multi_session([prompt]), speech[:32_000], 4_000)
        mine = [one for one in both if one.prompt == row]
        assert [(one.visible_steps, one.token_id) for one in mine] == [(a.visible_steps, a.token_id) for a in alone]


def test_closed_gates_leave_the_llm_as_it_was(torch_model: SpeechModel) -> None:
    import torch

    torch_model.connector.start_silent()
    ids, visible = torch.arange(7)[None] + 5, torch.arange(7)[None]
    steps = torch.randn(1, 9, torch_model.config.encoder.width)
    from bestow_edge.model.base import Speech

    with torch.no_grad():
        heard = torch_model(ids, Speech(steps, torch.tensor([9])), visible).logits
        alone = torch_model(ids, None, visible).logits
        plain = torch_model.llm(input_ids=ids).logits
    assert torch.equal(heard, alone)
    assert torch.allclose(alone, plain, atol=1e-6)


def test_drafts_leave_nothing_behind(model: Model, speech: Floats) -> None:
    want = decisions(model.session(source="de"), speech[:32_000], 4_000)
    session, found = model.session(source="de"), list[Decision]()
    session.on_decision = found.append
    for start in range(0, 32_000, 4_000):
        session.feed(speech[start : start + 4_000])
        session.draft()
    session.finish()
    assert found == want


def test_a_beam_of_copies_writes_a_text_at_least_as_probable(model: Model, speech: Floats) -> None:
    """Rows of a beam are copied, branched and taken back."""
    sums = {}
    for size in (1, 3):
        session = model.open(Request(lang="de-de", stream=False, beam_size=size))
        found = decisions(session, speech[:24_000], 24_000)
        sums[size] = [one.log_prob for one in found]
    assert sums[1]
    assert np.mean(sums[3]) >= np.mean(sums[1]) - 1e-6


def test_a_trace_replays(model: Model, speech: Floats, tmp_path: Path) -> None:
    with Tracer(model.session(source="de", policy=WaitK(2, 3)), tmp_path / "talk.trace") as session:
        for start in range(0, 48_000, 5_000):
            session.feed(speech[start : start + 5_000])
        session.finish()
    trace = read_trace(tmp_path / "talk.trace")
    assert replay(trace, model) == list(trace.events)


def test_verify_and_agreement(bundle: Path, model: Model) -> None:
    assert all(row.passed for row in verify(bundle))
    recordings = read_recordings(sample_manifest(), model)[:2]
    texts = [answer(model, recording) for recording in recordings]
    assert all(texts)
    assert agreement(model, recordings, texts) == 1.0


def test_sizes_that_do_not_fit(model_config: Callable[..., ModelConfig]) -> None:
    with pytest.raises(
        ConfigError, match="every 5, but the LLM has 4 layers, so none would attend to speech; set at most 4"
    ):
        gated(model_config(), every=5)
    with pytest.raises(ConfigError, match="the LLM's width 48 is not a multiple of num_heads 5; choose other heads"):
        gated(model_config(), num_heads=5)
