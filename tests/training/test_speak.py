"""Texts spoken by espeak-ng: plain words alone, the same bytes from the same seed, going on after a stop."""

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bestow_edge.errors import AudioError, ConfigError, ManifestError
from bestow_edge.training.corpora import speak as module
from bestow_edge.training.corpora.check import check_manifests
from bestow_edge.training.corpora.speak import Speaking, plain, speak_texts
from bestow_edge.training.corpora.voices import BASES, TEST, TRAIN, draw_voice, speak, variants_of

ROWS = ["en\tde", "Don't stop!\tHör nicht auf!", "He has 2 cats.\tEr hat zwei Katzen.", "Good morning.\t"]
ROWS += [f"Number {word}, please.\tNummer {word}, bitte." for word in ("one", "two", "three", "four", "five")]
ENGLISH = Speaking(column="en", language="en", translations=("de",), seed=1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of six rows that can be spoken and two that cannot."""
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for espeak-ng that writes its arguments down and answers with a tone of a tenth of a second a word."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tone = (8000 * np.sin(np.arange(2205) / 5)).astype("<i2").tobytes()
    header = b"RIFF" + bytes(20) + (22_050).to_bytes(4, "little") + bytes(16)
    (folder / "header").write_bytes(header)
    (folder / "tone").write_bytes(tone)
    program = folder / "espeak-ng"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\nfor text; do :; done\ncat {folder}/header\n'
        f"for word in $text; do cat {folder}/tone; done\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def lines_of(out: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t stop \u2013 now!", "don't stop now"),
        ("„Grüß Gott“, sagte der Müller-Bursche …", "grüß gott sagte der müller bursche"),
        ("'Tis the students' own.", "tis the students own"),
        ("  \t? ", ""),
        ("Cafe\u0301", "café"),
        ("He has 2 cats.", None),
        ("ten % of it", None),
        ("this & that", None),
        ("a + b", None),
        ("five €", None),
    ],
)
def test_plain_words(text: str, words: str | None) -> None:
    assert plain(text) == words


def test_rows_are_spoken(table: Path, espeak: Path, tmp_path: Path) -> None:
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
        loud = samples[np.abs(samples) > 1e-3]
        assert np.sqrt(np.mean(loud**2)) == pytest.approx(0.08, rel=0.05)
        assert line["speaker"].split("+")[1] in TRAIN
    assert not check_manifests([tmp_path / "out" / "manifest.jsonl"], rate_hz=16_000, jobs=1).notes
    assert len((espeak / "calls").read_text().splitlines()) == 6
    again = speak_texts(table, tmp_path / "out", ENGLISH)
    assert (again.utterances, again.made_before) == (6, 6)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    table: Path, espeak: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert len((espeak / "calls").read_text().splitlines()) == 12


def test_questions_are_kept(espeak: Path, tmp_path: Path) -> None:
    del espeak
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
    with pytest.raises(ConfigError, match="voices: 'm9' is none; expected train, test or some of m1, m2"):
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
@pytest.mark.usefixtures("espeak")
def test_bad_tables(
    tmp_path: Path, content: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "texts.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        speak_texts(tmp_path / "texts.tsv", tmp_path / "out", Speaking(column="en", language="en", **settings))


def test_a_language_without_voices() -> None:
    with pytest.raises(ConfigError, match="--lang passage: no voices for it; expected one of en, de"):
        Speaking(column="passage", language="passage")


def test_without_the_program(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="espeak-ng is not on the path; run: apt install espeak-ng"):
        speak_texts(table, tmp_path / "out", ENGLISH)


def test_a_program_that_fails_or_says_nothing(espeak: Path) -> None:
    rng = np.random.default_rng(0)
    voice = draw_voice(rng, "de", ("m1",))
    with pytest.raises(AudioError, match=r"espeak-ng -v de\+m1: said nothing for ' '"):
        speak(" ", voice, rng)
    (espeak / "espeak-ng").write_text("#!/bin/sh\necho no such voice >&2\nexit 1\n")
    with pytest.raises(AudioError, match=r"espeak-ng -v de\+m1: no such voice"):
        speak("ja", voice, rng)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_program_itself(table: Path, tmp_path: Path) -> None:
    spoken = speak_texts(table, tmp_path / "out", ENGLISH)
    assert spoken.voices > 3
    assert spoken.seconds > 6
    assert not check_manifests([tmp_path / "out" / "manifest.jsonl"], rate_hz=16_000, jobs=1).problems
