"""A whole Whisper from folder to text: equal to transformers' `generate`, streamed in any blocks, several prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoding import heard, tokens, write
from tiny_whisper import export_whisper, save_whisper
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.request import Request
from bestow_edge.runtime.model import Model, load

PADDING = 25  # all that the encoder has positions for: as transformers wants it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(export_whisper(folder, tmp_path_factory.mktemp("bundle")), threads=1)


@pytest.fixture
def waveform(speech: np.ndarray) -> np.ndarray:
    return speech[:24_000]  # 1.5 s of the 2 s that the encoder has positions for


@pytest.mark.parametrize("pair", ["en-en", "de-en"])
def test_offline_text_equals_generate(model: Model, folder: Path, waveform: np.ndarray, pair: str) -> None:
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = WhisperFeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16_000, return_tensors="pt")
    source, target = pair.split("-")
    task = "transcribe" if source == target else "translate"
    with torch.no_grad():
        ids = theirs.generate(features.input_features, language=source, task=task, max_new_tokens=12, do_sample=False)
    want = ids[0].tolist()[-12:]
    session = model.multi_session([(pair, Offline())])
    assert tokens(session, waveform, 4_000)[0][:12] == want
    assert len(set(want)) > 2  # it says something


@pytest.mark.parametrize(
    "policy", [AlignAtt(2, l=4), LocalAgreement(2, 4), Offline()], ids=lambda one: type(one).__name__
)
def test_blocks_make_no_difference(model: Model, waveform: np.ndarray, policy: Policy) -> None:
    whole, cut = (tokens(model.multi_session([("en-en", policy)]), waveform, size) for size in (30_000, 777))
    assert whole == cut
    assert whole[0]


def test_two_prompts_equal_one_each(model: Model, waveform: np.ndarray) -> None:
    both = tokens(model.multi_session([("de-de", Offline()), ("de-en", Offline())]), waveform, 8_000)
    alone = [tokens(model.multi_session([(pair, Offline())]), waveform, 8_000)[0] for pair in ("de-de", "de-en")]
    assert both == alone
    assert both[0] != both[1]


def test_the_default_policy_is_that_of_the_checkpoint(model: Model) -> None:
    assert model.default_policy == AlignAtt(2, l=4)
    assert model.open(Request(lang="en")).prompts[0].policy == AlignAtt(2, l=4)
    assert model.open(Request(lang="en", threshold=5)).prompts[0].policy == AlignAtt(5, l=4)
    assert model.session(source="en", l=8).prompts[0].policy == AlignAtt(2, l=8)


def test_wait_k_is_refused(model: Model) -> None:
    message = "policy wait-k: a model with connector cross_layers cannot follow it; use offline, align-att, local-agr"
    for open_session in (
        lambda: model.open(Request(lang="en", policy="wait-k")),
        lambda: model.multi_session([("en-en", WaitK(3, 4))]),
    ):
        with pytest.raises(ConfigError, match=message):
            open_session()
    with pytest.raises(ConfigError, match="cannot follow it"):
        model.open(Request(lang="en", latency="3s"))


def test_rehearsals_leave_nothing_behind(model: Model, waveform: np.ndarray) -> None:
    prompt = list(model.manifest.prompts["en-en"])
    want = write(heard(model, waveform, [prompt]), 6)
    decoder = heard(model, waveform, [prompt])
    with decoder.rehearsal():
        write(decoder, 3)
    first = write(decoder, 3)
    with decoder.rehearsal():
        write(decoder, 2)
    assert first + write(decoder, 3) == want
    assert decoder.num_tokens.tolist() == [len(prompt) - 1 + 6]


def test_supposed_speech_is_forgotten(model: Model, waveform: np.ndarray) -> None:
    prompt = list(model.manifest.prompts["en-en"])
    decoder, other = (heard(model, part, [prompt]) for part in (waveform, waveform[:8_000]))
    before = write(decoder, 2)
    with decoder.supposing([other._speech]):
        supposed = decoder.attempt([decoder.heard])[0].log_prob
        assert decoder.heard < 18
    assert before + write(decoder, 2) == write(heard(model, waveform, [prompt]), 4)
    assert supposed != decoder.attempt([decoder.heard])[0].log_prob


def test_rows_are_copied(model: Model, waveform: np.ndarray) -> None:
    prompts = [list(model.manifest.prompts[pair]) for pair in ("de-de", "de-en")]
    decoder = heard(model, waveform, prompts)
    write(decoder, 2)
    decoder.take_rows([1, 1])
    rows = write(decoder, 3)
    assert all(left == right for left, right in rows)


def test_new_speech_runs_the_text_again(model: Model, waveform: np.ndarray) -> None:
    """The text so far about the newest encoding: as if it had been written with that encoding alone."""
    prompt = list(model.manifest.prompts["en-en"])
    early = heard(model, waveform[:12_000], [prompt])
    (first,), late = write(early, 1), heard(model, waveform, [prompt])
    early.hear(late._speech)
    fresh = heard(model, waveform, [prompt + first])
    assert write(early, 3) == write(fresh, 3)


@pytest.mark.parametrize(("texts", "lengths"), [([5, 5], [5, 1]), ([5, 3], [4, 1, 1]), ([1], [1, 1])])
def test_texts_and_queries_run_at_once_if_equally_long(
    model: Model, waveform: np.ndarray, texts: list[int], lengths: list[int]
) -> None:
    """Tokens of each run for two attempts after a new encoding; a query alone is the same."""
    prompts = [list(range(10, 10 + length)) for length in texts]
    decoder, runs = heard(model, waveform, prompts), []
    step = decoder._step.run
    decoder._step.run = lambda feeds, count: runs.append(count) or step(feeds, count)
    first, second = (decoder.attempt([decoder.heard] * len(texts)) for _ in range(2))
    assert runs == lengths
    for row, prompt in enumerate(prompts):
        alone = heard(model, waveform, [prompt]).attempt([decoder.heard])[0]
        for attempt in (first[row], second[row]):
            assert attempt.token_id == alone.token_id
            np.testing.assert_allclose(attempt.log_prob, alone.log_prob, atol=1e-4)
            np.testing.assert_allclose(attempt.alignment, alone.alignment, atol=1e-5)


def test_alignment(model: Model, waveform: np.ndarray) -> None:
    decoder = heard(model, waveform, [list(model.manifest.prompts["en-en"])])
    attempt = decoder.attempt([decoder.heard])[0]
    assert attempt.alignment.shape == (1, decoder.heard + 1)  # the silence behind comes last
    np.testing.assert_allclose(attempt.alignment.sum(), 1.0, atol=1e-5)
    first, end = attempt.span()
    assert 0 <= first < end <= decoder.heard
    assert np.isclose(attempt.log_probs[attempt.token_id], attempt.log_prob, atol=1e-4)


def test_a_segment_longer_than_the_window(model: Model, waveform: np.ndarray) -> None:
    """The encoder then hears the last 2 s, and the attention is on these steps."""
    decoder = heard(model, np.tile(waveform, 3), [list(model.manifest.prompts["en-en"])])
    assert decoder.heard == 57 > PADDING
    attempt = decoder.attempt([decoder.heard])[0]
    assert attempt.alignment.shape == (1, PADDING + 1)
    first, end = attempt.span()
    assert 57 - PADDING <= first < end <= 57


def test_context_stands_before_the_prompt(model: Model) -> None:
    prompt = model.manifest.prompts["en-en"]
    previous = model.tokenizer.token_to_id("<|startofprev|>")
    assert model.join(prompt, ()) == prompt
    assert model.join(prompt, (9, 8)) == (previous, 9, 8, *prompt)


def test_segments_carry_context(model: Model, waveform: np.ndarray) -> None:
    starts: list[tuple[int, ...]] = []
    limits = replace(model.config.segments, max_s=3.0, context_tokens=3, pause_s=0.0)
    long = np.tile(waveform, 4)
    session = model.multi_session([("en-en", AlignAtt(2, l=4))], segments=limits)
    tokens(session, long, 4_000)
    starts.append(session._prompt_tokens[0])
    assert session.segment >= 1
    assert starts[-1][0] == model.tokenizer.token_to_id("<|startofprev|>")
    assert isinstance(limits, SegmentConfig)
