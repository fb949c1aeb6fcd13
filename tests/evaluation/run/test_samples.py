"""Evaluation manifests: three kinds of files, and errors that name the line before anything runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.prompts import Pair
from bestow_edge.evaluation.run.samples import read_samples

EN_DE, EN_EN, DE_DE = Pair("en", "de"), Pair("en", "en"), Pair("de", "de")
LINE: dict[str, Any] = {"audio_filepath": "a.wav", "duration": 1.0, "text": "one", "translations": {"de": "eins"}}
AUDIO = Path(__file__).parents[2] / "audio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "clips/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(16_000, np.float32), 16_000)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    def make(name: str, *lines: object, encoding: str = "utf-8") -> Path:
        text = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (folder / name).write_text("".join(f"{line}\n" for line in text), encoding=encoding)
        return folder / name

    return make


def test_json_lines(write: Callable[..., Path], folder: Path) -> None:
    part = LINE | {"audio_filepath": "b.wav", "offset": 0.25, "duration": 0.5}
    spoken_german = LINE | {"audio_filepath": "gone.wav", "source_lang": "de"}
    samples = read_samples(write("m.jsonl", LINE, part, spoken_german), EN_DE)
    assert [item.path for item in samples.items] == [folder / "a.wav", folder / "b.wav"]
    assert [item.reference for item in samples.items] == ["eins", "eins"]
    assert [(item.offset_s, item.duration_s, item.length_s) for item in samples.items] == [
        (0, None, 1),
        (0.25, 0.5, 0.5),
    ]
    assert samples.left_out == 1
    assert read_samples(folder / "m.jsonl", EN_EN).items[0].reference == "one"


def test_a_line_without_languages_is_in_the_pairs(write: Callable[..., Path]) -> None:
    plain = {"audio_filepath": "a.wav", "duration": 1.0, "text": "eins"}
    assert read_samples(write("m.json", plain), DE_DE).items[0].reference == "eins"


def test_the_recordings_of_the_tests(folder: Path) -> None:
    samples = read_samples(AUDIO / "hd_digits" / "manifest.jsonl", EN_DE)
    assert samples.items
    assert samples.left_out
    assert all(item.duration_s is None for item in samples.items)
    moved = write_elsewhere(AUDIO / "hd_digits" / "manifest.jsonl", folder)
    assert read_samples(moved, EN_DE, audio=AUDIO / "hd_digits") == samples


def write_elsewhere(manifest: Path, folder: Path) -> Path:
    (folder / "copy.jsonl").write_bytes(manifest.read_bytes())
    return folder / "copy.jsonl"


def test_tables_of_common_voice_and_covost(write: Callable[..., Path], folder: Path) -> None:
    table = write("t.tsv", "client_id\tpath\tsentence\ttranslation", 'x\tc.wav\tHe said "one\tEr sagte "eins')
    assert read_samples(table, EN_EN).items[0].reference == 'He said "one'
    (item,) = read_samples(table, EN_DE).items
    assert (item.path, item.reference) == (folder / "clips" / "c.wav", 'Er sagte "eins')
    assert read_samples(table, EN_DE, audio=folder / "clips").items == (item,)


def test_lists_of_simuleval(write: Callable[..., Path], folder: Path) -> None:
    source = write("source.txt", "a.wav", str(folder / "b.wav"))
    target = write("target.txt", "eins ", "zwei")
    found = read_samples(source, EN_DE, target=target).items
    assert [(item.path.name, item.reference) for item in found] == [("a.wav", "eins"), ("b.wav", "zwei")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE | {"audio_filepath": "gone.wav"}, ":2: no such audio file: "),
        (LINE | {"audio_filepath": "m.jsonl"}, ":2: .*m.jsonl cannot be read as audio"),
        (LINE | {"duration": -1.0}, ":2: duration -1.0 s; expected more than 0"),
        (LINE | {"duration": 9.0, "audio_filepath": "b.wav"}, ":2: 9.0 s from 0.0 s, but .*b.wav has 1.00 s"),
        (LINE | {"offset": 2.0}, ":2: 1.0 s from 2.0 s, but .*a.wav has 1.00 s"),
        (LINE, ":2: repeats .*m.jsonl:1 .*every recording may occur once"),
        (LINE | {"audio_filepath": "clips/../a.wav"}, ":2: repeats"),
        (LINE | {"audio_filepath": "b.wav", "translations": {"de": " "}}, ":2: the reference is empty"),
        (LINE | {"audio_filepath": "b.wav", "translations": {}}, ":2: no text in de, it has en"),
        ('{"audio', ":2: not valid JSON"),
    ],
)
def test_bad_lines(write: Callable[..., Path], line: object, message: str) -> None:
    with pytest.raises(ManifestError, match=r"m\.jsonl" + message):
        read_samples(write("m.jsonl", LINE, line), EN_DE)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path\tsentence", "a.wav\tone"], ":1: no column translation for en-de; found path, sentence"),
        (["translation\tpath", "eins"], ":2: 1 columns; expected 2 as in the header"),
        (["path\ttranslation", "a.wav\teins", "a.wav\tzwei"], ":3: repeats"),
        (["path\ttranslation", "a.wav\t "], ":2: the reference is empty"),
        (["path\ttranslation", "gone.wav\teins"], ":2: no such audio file"),
        (["path\ttranslation"], ": nothing to evaluate for en-de; 0 lines are in other languages"),
        ([], ": no lines; expected a header and rows"),
    ],
)
def test_bad_tables(write: Callable[..., Path], lines: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape("t.tsv") + message):
        read_samples(write("t.tsv", *lines), EN_DE)


def test_other_encodings_are_refused_by_line(write: Callable[..., Path]) -> None:
    table = write("t.tsv", "path\ttranslation", "a.wav\tfünf", encoding="latin-1")
    with pytest.raises(ManifestError, match=r"t\.tsv:2: byte 0xfc at position 8 is not UTF-8"):
        read_samples(table, EN_DE)
    source, target = write("s.txt", "a.wav"), write("t.txt", "fünf", encoding="utf-16")
    with pytest.raises(ManifestError, match=r"t\.txt:1: byte 0xff at position 1 is not UTF-8"):
        read_samples(source, EN_DE, target=target)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        (["a.wav", "b.wav"], ["eins"], r"t\.txt:2: no reference, but .*s\.txt has a recording"),
        (["a.wav"], ["eins", "zwei"], r"t\.txt:2: a reference without a line in .*s\.txt"),
        (["a.wav", "b.wav"], ["eins", "", "drei"], r"t\.txt:3: a reference without a line"),
        (["a.wav", "a.wav"], ["eins", "zwei"], r"s\.txt:2: repeats"),
        ([], ["eins"], r"s\.txt: no lines"),
    ],
)
def test_bad_lists(write: Callable[..., Path], sources: list[str], targets: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_samples(write("s.txt", *sources), EN_DE, target=write("t.txt", *targets))


def test_what_belongs_together(write: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"a source list needs a target list \(--target\)"):
        read_samples(write("s.txt", "a.wav"), EN_DE)
    with pytest.raises(ManifestError, match=r"a \.jsonl manifest has its own texts"):
        read_samples(write("m.jsonl", LINE), EN_DE, target=folder / "s.txt")
    with pytest.raises(ManifestError, match="no such manifest"):
        read_samples(folder / "nowhere.tsv", EN_DE)
    with pytest.raises(ManifestError, match="nothing to evaluate for de-de; 1 lines are in other languages"):
        read_samples(write("m.jsonl", LINE | {"source_lang": "en"}), DE_DE)


def test_questions_of_json_lines(write: Callable[..., Path]) -> None:
    asked = LINE | {"source_lang": "en", "question": " Which word?", "answer": "one"}
    only = {name: value for name, value in asked.items() if name != "text"} | {"question": "How many?"}
    manifest = write("qa.jsonl", LINE, asked, only, asked | {"source_lang": "de"})
    found = read_samples(manifest, EN_EN, questions=True)
    assert [(item.question, item.reference) for item in found.items] == [("Which word?", "one"), ("How many?", "one")]
    assert found.left_out == 2
    assert {item.question for item in read_samples(write("m.jsonl", LINE), EN_EN).items} == {""}
    again = write("again.jsonl", asked, asked)
    with pytest.raises(ManifestError, match=r"again.jsonl:2: repeats .*; every question about a recording may occur o"):
        read_samples(again, EN_EN, questions=True)
    with pytest.raises(ManifestError, match="1 lines are in other languages or have no question"):
        read_samples(write("none.jsonl", LINE), EN_EN, questions=True)
    with pytest.raises(ManifestError, match=r"questions are asked from \.jsonl and \.json manifests"):
        read_samples(write("t.tsv", "path\tsentence", "a.wav\tone"), EN_EN, questions=True)
