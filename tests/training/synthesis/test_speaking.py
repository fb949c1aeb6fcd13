"""Texts spoken by espeak-ng: plain words alone, the same bytes from the same seed, going on after a stop."""

import json
import re
from ctypes.util import find_library
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bestow_edge.core.errors import AudioError, ConfigError, ManifestError
from bestow_edge.core.utterances import read_manifest
from bestow_edge.training.data.corpora.check import check_manifests
from bestow_edge.training.data.corpora.words import plain
from bestow_edge.training.synthesis import speaking as module
from bestow_edge.training.synthesis import voices
from bestow_edge.training.synthesis.speaking import Speaking, speak_texts
from bestow_edge.training.synthesis.voices import (
    BASES,
    TEST,
    TRAIN,
    Espeak,
    Voice,
    draw_voice,
    espeak_library,
    speak,
    variants_of,
)

ROWS = ["en\tde", "Don't stop!\tHör nicht auf!", "He has 2 cats.\tEr hat zwei Katzen.", "Good morning.\t"]
ROWS += [f"Number {word}, please.\tNummer {word}, bitte." for word in ("one", "two", "three", "four", "five")]
ENGLISH = Speaking(column="en", language="en", translations=("de",), seed=1)

installed = pytest.mark.skipif(find_library("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of six rows that can be spoken and two that cannot."""
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for espeak-ng that keeps what it is to say and gives each word a tone of a tenth of a second."""
    said: list[str] = []

    def tones(espeak: Espeak, text: str, voice: Voice) -> tuple[Any, int, list[tuple[int, int, int]]]:
        assert (espeak.library, "+" in voice.name) == ("a library", True)
        said.append(text)
        places = [match.start() for match in re.finditer(r"\S+", text)]
        tone = (8000 * np.sin(np.arange(2205 * len(places)) / 5)).astype(np.int16)
        return tone, 22_050, [(place, 2205 * index, 2205 * (index + 1)) for index, place in enumerate(places)]

    monkeypatch.setattr(Espeak, "speak", tones)
    monkeypatch.setattr(module, "espeak_library", lambda: "a library")
    return said


def lines_of(out: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]


def test_rows_are_spoken(table: Path, calls: list[str], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    spoken = speak_texts(
        table, tmp_path / "out", ENGLISH, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert (spoken.utterances, spoken.made_before, spoken.left_out) == (6, 0, 2)
    assert seen == [(number, 6) for number in range(7)]
    lines = lines_of(tmp_path / "out")
    assert sorted(line["text"] for line in lines)[0] == "don't stop"
    assert {line["translations"]["de"] for line in lines} >= {"Hör nicht auf!", "Nummer one, bitte."}  # as written
    assert spoken.seconds == pytest.approx(sum(line["duration"] for line in lines))
    for line in lines:
        samples, rate_hz = soundfile.read(tmp_path / "out" / line["audio_filepath"])
        assert rate_hz == 16_000
        assert samples.size / rate_hz == pytest.approx(line["duration"], abs=1e-3)
        said_s = 0.1 * len(line["text"].split())
        assert said_s + 0.15 - 0.01 <= line["duration"] <= said_s + 0.75 + 0.01
        times = np.array(line["word_times"])
        assert np.diff(times, axis=1).ravel() == pytest.approx(np.full(len(times), 0.1), abs=2e-3)
        assert 0.05 - 1e-3 <= times[0, 0] <= 0.35 + 1e-3
        assert line["duration"] - times[-1, 1] >= 0.1 - 2e-3
        loud = samples[np.abs(samples) > 1e-3]
        assert np.sqrt(np.mean(loud**2)) == pytest.approx(0.08, rel=0.05)
        assert line["speaker"].split("+")[1] in TRAIN
    assert not check_manifests([tmp_path / "out" / "manifest.jsonl"], rate_hz=16_000, jobs=1).notes
    assert sorted(calls)[0] == "Don't stop!"
    assert len(calls) == 6
    again = speak_texts(table, tmp_path / "out", ENGLISH)
    assert (again.utterances, again.made_before) == (6, 6)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    table: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    speak_texts(table, whole, ENGLISH)
    stopping = speak

    def stop(text: str, *rest: Any) -> Any:
        if (cut / "manifest.partial.jsonl").read_text(encoding="utf-8").count("\n") == 3:
            raise KeyboardInterrupt
        return stopping(text, *rest)

    monkeypatch.setattr(module, "AHEAD", 0)
    monkeypatch.setattr(module, "speak", stop)
    with pytest.raises(KeyboardInterrupt):
        speak_texts(table, cut, ENGLISH)
    assert not (cut / "manifest.jsonl").exists()
    with (cut / "manifest.partial.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"audio_filepath": "audio/0')  # a line cut by a kill
    monkeypatch.setattr(module, "speak", stopping)
    assert speak_texts(table, cut, ENGLISH, workers=3).made_before == 3
    assert (cut / "manifest.jsonl").read_bytes() == (whole / "manifest.jsonl").read_bytes()
    for line in lines_of(whole):
        assert (cut / line["audio_filepath"]).read_bytes() == (whole / line["audio_filepath"]).read_bytes()
    with pytest.raises(ConfigError, match="cut: holds speech with another count, seed; choose another directory"):
        speak_texts(table, cut, Speaking(column="en", language="en", translations=("de",), seed=2, count=3))
    assert len(calls) == 12


@pytest.mark.usefixtures("calls")
def test_questions_are_kept(tmp_path: Path) -> None:
    table = tmp_path / "qa.tsv"
    table.write_text("passage\tquestion\tanswer\nTom ran.\tWho ran?\tTom\nIt rained.\t\t\n", encoding="utf-8")
    spoken = speak_texts(table, tmp_path / "out", Speaking(column="passage", language="en", count=2, format="opus"))
    assert spoken.utterances == 2
    lines = {line["text"]: line for line in lines_of(tmp_path / "out")}
    assert (lines["tom ran"]["question"], lines["tom ran"]["answer"]) == ("Who ran?", "Tom")
    assert "question" not in lines["it rained"]
    assert not check_manifests([tmp_path / "out" / "manifest.jsonl"], rate_hz=16_000, jobs=1).problems


def test_voices() -> None:
    assert not set(TRAIN) & set(TEST)
    assert variants_of("m1,sandro") == ("m1", "sandro")
    with pytest.raises(ConfigError, match="voices: 'm9' is unknown; expected train, test or some of m1, m2"):
        variants_of("m1,m9")
    rng = np.random.default_rng(0)
    drawn = [draw_voice(rng, "en", TEST) for _ in range(600)]
    assert {voice.name for voice in drawn} == {f"{base}+{variant}" for base in BASES["en"] for variant in TEST}
    assert len({voice.words_per_minute for voice in drawn}) > 40


@pytest.mark.parametrize(
    ("content", "settings", "error", "message"),
    [
        ("en\n\n", {}, ManifestError, "no row to speak; expected plain words in column en"),
        ("fr\noui\n", {}, ManifestError, r"texts\.tsv:2: no column en; found fr"),
        ("en\nyes\n", {"translations": ("de",)}, ManifestError, r"texts\.tsv:2: no column de; found en"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_bad_tables(
    tmp_path: Path, content: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "texts.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        speak_texts(tmp_path / "texts.tsv", tmp_path / "out", Speaking(column="en", language="en", **settings))


def test_a_language_without_voices() -> None:
    with pytest.raises(ConfigError, match="--lang passage: no voices for it; expected one of en, de"):
        Speaking(column="passage", language="passage")


def test_without_the_library(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "find_library", lambda _name: None)
    monkeypatch.setattr(voices, "ELSEWHERE", (str(tmp_path / "libespeak-ng.dylib"),))
    with pytest.raises(ConfigError, match="libespeak-ng is not installed; run: apt install espeak-ng"):
        speak_texts(table, tmp_path / "out", ENGLISH)
    (tmp_path / "libespeak-ng.dylib").touch()
    assert espeak_library() == str(tmp_path / "libespeak-ng.dylib")
    with (
        Espeak(espeak_library()) as espeak,
        pytest.raises(AudioError, match=r"espeak-ng, voice de: OSError: .*libespeak-ng\.dylib"),
    ):
        speak("ja", Voice("de", 160, 50, 0), np.random.default_rng(0), espeak)


@installed
def test_a_voice_that_is_none_and_a_text_without_words() -> None:
    rng = np.random.default_rng(0)
    with Espeak(espeak_library()) as espeak:
        with pytest.raises(AudioError, match="espeak-ng, voice xx: no such voice"):
            speak("ja", Voice("xx", 160, 50, 0), rng, espeak)
        with pytest.raises(AudioError, match=r"espeak-ng, voice de\+m1: spoke nothing for ' '"):
            speak(" ", Voice("de+m1", 160, 50, 0), rng, espeak)
        assert speak("ja", Voice("de+m1", 160, 50, 0), rng, espeak).word_times  # it goes on after both


@installed
@pytest.mark.parametrize("base", sorted({base for bases in BASES.values() for base in bases}))
def test_every_accent_has_variants(base: str) -> None:
    with Espeak(espeak_library()) as espeak:
        first, second = (espeak.speak("no", Voice(f"{base}+{name}", 160, 50, 0))[0] for name in ("m1", "f2"))
    assert first.size != second.size or (first != second).any()


@installed
def test_words_are_where_the_times_say() -> None:
    text = "Tom gave it, to all of the men."
    with Espeak(espeak_library()) as espeak:
        speech = speak(text, Voice("en-us+m3", 150, 50, 30), np.random.default_rng(0), espeak)  # 300 ms gaps
    words = (plain(text) or "").split()
    times = dict(zip(words, speech.word_times, strict=True))
    assert times["of"][1] == times["the"][0]  # spoken as one word
    silent = np.ones(speech.samples.size, dtype=bool)
    for start, end in times.values():
        span = slice(round(start * 16_000), round(end * 16_000))
        silent[max(0, span.start - 160) : span.stop + 160] = False  # 10 ms, for resampling
        edges = speech.samples[span][:800], speech.samples[span][-800:]  # 50 ms
        assert min(np.abs(edge).max() for edge in edges) > 0.005
    assert np.abs(speech.samples[silent]).max() < 1e-3
    assert silent.mean() > 0.4
    pauses = {word: times[word][0] - times[before][1] for before, word in pairwise(words) if word != "the"}
    assert min(pauses.values()) > 0.25
    assert max(pauses, key=pauses.__getitem__) == "to"  # behind the comma


@installed
def test_the_library_itself(table: Path, tmp_path: Path) -> None:
    spoken = speak_texts(table, tmp_path / "out", ENGLISH)
    assert spoken.voices > 3
    assert spoken.seconds > 6
    assert not check_manifests([tmp_path / "out" / "manifest.jsonl"], rate_hz=16_000, jobs=1).problems
    assert all(item.word_times for item in read_manifest(tmp_path / "out" / "manifest.jsonl"))
    speak_texts(table, tmp_path / "again", ENGLISH, workers=3)  # a text sounds the same whatever was spoken before it
    for path in sorted((tmp_path / "out").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()
