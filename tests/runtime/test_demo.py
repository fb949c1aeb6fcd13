"""The embedded model on people it was not trained on: single digits of three corpora, streamed and offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bestow_edge as be

AUDIO = Path(__file__).parents[1] / "audio"
EXAMPLES = Path(__file__).parents[2] / "examples" / "audio"
LEAST_RIGHT = 0.8  # of 20 to 40 clips; the benchmark has the figures over whole test sets


@pytest.fixture(scope="module")
def model() -> be.Model:
    return be.load("demo")


def heard(model: be.Model, path: Path, source: str, target: str, policy: be.Offline | be.WaitK) -> str:
    session = model.session(source=source, target=target, policy=policy)
    waveform = be.read_audio(path, model.sample_rate_hz)
    blocks = (waveform[start : start + 1280] for start in range(0, waveform.size, 1280))
    return "".join(event.text for event in be.stream(session, blocks))


@pytest.mark.parametrize("corpus", ["fsdd", "hd_digits", "speech_commands"])
@pytest.mark.parametrize("policy", [be.Offline(), be.WaitK(3, 4), be.WaitK(6, 4)], ids=["offline", "k3", "k6"])
def test_digits_of_unseen_speakers(model: be.Model, corpus: str, policy: be.Offline | be.WaitK) -> None:
    lines = (AUDIO / corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    right = []
    for entry in map(json.loads, lines):
        source = entry["source_lang"]
        texts = {source: entry["text"], **entry["translations"]}
        right += [
            heard(model, AUDIO / corpus / entry["audio_filepath"], source, target, policy) == text
            for target, text in texts.items()
        ]
    assert len(right) >= 40
    assert sum(right) / len(right) >= LEAST_RIGHT


@pytest.mark.parametrize(
    ("name", "source", "texts"),
    [
        ("digits_en.wav", "en", {"en": "nine one five seven zero", "de": "neun eins fünf sieben null"}),
        ("digits_de.wav", "de", {"en": "five four one seven nine", "de": "fünf vier eins sieben neun"}),
        ("digits_en_48k_stereo.flac", "en", {"en": "zero seven two eight", "de": "null sieben zwei acht"}),
    ],
)
def test_the_example_recordings(model: be.Model, name: str, source: str, texts: dict[str, str]) -> None:
    for target, text in texts.items():
        assert heard(model, EXAMPLES / name, source, target, be.Offline()) == text
        if source == "en":  # in the pause of the German one it writes a digit too many while it listens
            assert heard(model, EXAMPLES / name, source, target, be.WaitK(3, 4)) == text
