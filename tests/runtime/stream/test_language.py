"""Detection of the language: equal to transformers, the same in any blocks, refused where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_whisper import export_whisper, save_whisper
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from bestow_edge.core.errors import PromptError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy
from bestow_edge.core.request import Request
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.records.replay import replay
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.session import Session

RATE_HZ = 16_000
AUTO = ("auto", "auto-en")
SETTLE_STEPS = 12  # within the tiny encoder's window of 2 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"), seed=4)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_whisper(folder, tmp_path_factory.mktemp("bundle"), detection_steps=SETTLE_STEPS)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def waveforms(speech: np.ndarray) -> list[np.ndarray]:
    """1.5 s each, of the 2 s that the encoder has positions for."""
    return [
        gain * speech[start : start + 24_000]
        for start in range(0, 40_000, 4_000)
        for gain in (np.float32(1), np.float32(0.1))
    ]


def theirs(folder: Path, waveforms: list[np.ndarray]) -> list[str]:
    """Return what transformers detects."""
    whisper = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    names = {token: name.strip("<|>") for name, token in whisper.generation_config.lang_to_id.items()}
    found = []
    for waveform in waveforms:
        features = extractor(waveform, sampling_rate=RATE_HZ, return_tensors="pt").input_features
        found += [names[token] for token in whisper.detect_language(features, num_segment_frames=200).tolist()]
    return found


def hear(session: Session, waveform: np.ndarray, block: int) -> tuple[str, list[str | None]]:
    """Return the text, and the language after each block."""
    events, languages = [], []
    for start in range(0, len(waveform), block):
        events += session.feed(waveform[start : start + block])
        languages.append(session.language)
    events += session.finish()
    return "".join(event.text for event in events), [*languages, session.language]


def test_equal_to_transformers(folder: Path, model: Model, waveforms: list[np.ndarray]) -> None:
    got = []
    for waveform in waveforms:
        with model.session(source="auto", policy=Offline()) as session:
            got.append(hear(session, waveform, 4_000)[1][-1])
    assert got == theirs(folder, waveforms)
    assert set(got) == {"en", "de"}


def test_text_is_that_of_the_detected_language(model: Model, waveforms: list[np.ndarray]) -> None:
    for waveform in waveforms[::5]:
        with model.multi_session([(pair, Offline()) for pair in AUTO]) as session:
            text, languages = hear(session, waveform, 4_000)
        code = languages[-1]
        assert code is not None
        pairs = [f"{code}-{code}", f"{code}-en"]
        with model.multi_session([(pair, Offline()) for pair in pairs]) as session:
            assert session.language == code
            assert hear(session, waveform, 4_000)[0] == text
        assert languages[:-1] == [None] * (len(languages) - 1)  # nothing is written before the end


@pytest.mark.parametrize(
    "policy", [AlignAtt(2, l=4), LocalAgreement(2, 4), Offline()], ids=lambda one: type(one).__name__
)
def test_blocks_make_no_difference(model: Model, waveforms: list[np.ndarray], policy: Policy) -> None:
    long = np.concatenate(waveforms[:6])  # 9 s, longer than the encoder's window
    whole, cut = (hear(model.multi_session([(pair, policy) for pair in AUTO]), long, size) for size in (144_000, 777))
    assert (whole[0], whole[1][-1]) == (cut[0], cut[1][-1])
    assert whole[0]
    known = [code is not None for code in cut[1]]
    assert known == sorted(known)  # once settled it stays
    assert len(set(cut[1]) - {None}) == 1


def test_the_first_token_waits_for_enough_speech(model: Model, speech: np.ndarray) -> None:
    waits = []
    for pair in ("auto", "en-en"):
        session = model.multi_session([(pair, AlignAtt(0, l=4))])
        events = [event for start in range(0, 112_000, 1_280) for event in session.feed(speech[start : start + 1_280])]
        first = next(event for event in events if event.text)
        waits.append((first.heard_s, first.start_s))
    (late_s, begin_s), (soon_s, _) = waits
    assert late_s - begin_s >= SETTLE_STEPS * 0.08 - 1e-9 > soon_s


def test_a_beam_detects(model: Model, waveforms: list[np.ndarray]) -> None:
    text, languages = hear(model.session(source="auto", policy=Offline(), beam_size=2), waveforms[0], 4_000)
    code = languages[-1]
    assert code is not None
    assert hear(model.session(source=code, policy=Offline(), beam_size=2), waveforms[0], 4_000)[0] == text


def test_without_speech_there_is_no_language(model: Model) -> None:
    session = model.session(source="auto")
    assert session.draft() == ""
    assert (session.finish(), session.language) == ([], None)


def test_a_draft_leaves_nothing_behind(model: Model, waveforms: list[np.ndarray]) -> None:
    drafting, plain = (model.session(source="auto", policy=Offline()) for _ in range(2))
    drafts = []
    for start in range(0, 24_000, 8_000):
        for session in (drafting, plain):
            session.feed(waveforms[0][start : start + 8_000])
        drafts.append(drafting.draft())
    text = "".join(event.text for event in plain.finish())
    assert drafts[-1] == text
    assert drafting.language is None
    assert "".join(event.text for event in drafting.finish()) == text


def test_a_trace_detects_again(model: Model, waveforms: list[np.ndarray], tmp_path: Path) -> None:
    with Tracer(model.session(source="auto", target="en"), tmp_path / "one.trace") as tracer:
        events = [*tracer.feed(np.concatenate(waveforms[:4])), *tracer.finish()]
        assert tracer.language in {"en", "de"}
    trace = read_trace(tmp_path / "one.trace")
    assert [str(prompt.asked) for prompt in trace.header.prompts] == ["auto-en"]
    assert replay(trace, model) == events


def test_refused(model: Model, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="language pair auto-de: this model was not trained for en-de, which it may"):
        model.session(source="auto", target="de")
    with pytest.raises(PromptError, match="language pair auto: this model detects no language; name one: "):
        load(tiny_bundle, threads=1).session(source="auto")
    english = export_whisper(save_whisper(tmp_path / "english", multilingual=False), tmp_path / "bundle")
    assert Request().asked(load(english, threads=1).config)[0].source == "en"
    with pytest.raises(PromptError, match="detects no language"):
        load(english, threads=1).session(source="auto")
