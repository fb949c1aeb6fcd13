"""Speech manifests: fields, languages, and errors that name the line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.utterances import read_manifest

LINE: dict[str, Any] = {"audio_filepath": "a/b.wav", "duration": 1.5, "text": "one"}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "corpus" / "train.jsonl"
    path.parent.mkdir()
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, LINE)
    (item,) = read_manifest(path)
    assert item.path == path.parent / "a/b.wav"
    assert (item.duration_s, item.offset_s) == (1.5, 0.0)
    assert (item.source_lang, dict(item.texts)) == ("en", {"en": "one"})
    assert (item.speaker, item.corpus) == ("", "corpus")


def test_translation_with_transcript(tmp_path: Path) -> None:
    fields = {"source_lang": "de", "target_lang": "en", "transcript": "eins", "offset": 2}
    (item,) = read_manifest(write(tmp_path, LINE | fields))
    assert dict(item.texts) == {"en": "one", "de": "eins"}
    assert (item.source_lang, item.offset_s) == ("de", 2.0)


def test_translations_by_language(tmp_path: Path) -> None:
    (item,) = read_manifest(write(tmp_path, LINE | {"lang": "en", "translations": {"de": "eins", "fr": "un"}}))
    assert dict(item.texts) == {"en": "one", "de": "eins", "fr": "un"}


def test_questions_need_no_text(tmp_path: Path) -> None:
    fields = {"question": " Who speaks? ", "answer": "Ann"}
    both, alone = read_manifest(write(tmp_path, LINE | fields, {k: v for k, v in LINE.items() if k != "text"} | fields))
    assert (both.question, both.answer, both.transcript) == ("Who speaks?", "Ann", "one")
    assert (alone.question, alone.answer, alone.transcript) == ("Who speaks?", "Ann", None)


def test_word_times_and_shards(tmp_path: Path) -> None:
    (item,) = read_manifest(write(tmp_path, LINE | {"word_times": [[0, 1.25]], "audio_bytes": [512, 99]}))
    assert item.word_times == ((0.0, 1.25),)
    assert item.audio_bytes == (512, 99)


def test_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(LINE).encode() + b"\n"))
    (item,) = read_manifest(path)
    assert item.path == tmp_path / "a/b.wav"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ManifestError, match=r"train\.jsonl\.gz: not a whole gzip file \(.*\); compress it again"):
        read_manifest(path)
    path.write_bytes(b"{}")
    with pytest.raises(ManifestError, match="not a whole gzip file"):
        read_manifest(path)


def test_empty_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"train\.jsonl:4: duration is None; expected a number"):
        read_manifest(write(tmp_path, LINE, "", "  ", {"audio_filepath": "x", "text": "one"}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": ', r":2: not valid JSON"),
        ("[1]", r":2: expected a JSON object, got list"),
        (LINE | {"duration": 0}, r":2: duration 0 s; expected more than 0"),
        (LINE | {"duration": "1"}, r":2: duration is '1'; expected a number"),
        (LINE | {"duration": True}, r":2: duration is True; expected a number"),
        (LINE | {"text": None}, r":2: text is None; expected text"),
        (LINE | {"translations": ["eins"]}, r":2: translations is .'eins'.; expected an object of texts by language"),
        (LINE | {"translations": {"de": None}}, r":2: translations is .'de': None.; expected an object"),
        (LINE | {"duration": float("nan")}, r":2: not valid JSON .NaN is no number."),
        (LINE | {"offset": -1}, r":2: offset -1 s; expected 0 or more"),
        (LINE | {"offset": "1"}, r":2: offset is '1'; expected a number"),
        ({"duration": 1, "text": "a"}, r":2: audio_filepath is None; expected text"),
        (LINE | {"question": "Who?"}, r":2: answer is None; expected text"),
        (LINE | {"question": "Who?", "answer": " "}, r":2: answer is empty; expected text in both"),
        (LINE | {"question": 3, "answer": "I"}, r":2: question is 3; expected text"),
        (LINE | {"word_times": "0.1"}, r":2: word_times is '0.1'; expected a list of .start, end. in seconds"),
        (LINE | {"word_times": [[0.1]]}, r":2: word_times is ..0.1..; expected a list"),
        (LINE | {"word_times": []}, r":2: word_times has 0 entries for 1 words"),
        (LINE | {"word_times": [[0.5, 0.1]]}, r":2: word_times has .0.5, 0.1. after 0.0; expected words in order"),
        (LINE | {"word_times": [[1.0, 9.0]]}, r":2: word_times has .1.0, 9.0.*within 0 and the duration 1.5 s"),
        (LINE | {"audio_bytes": [1]}, r":2: audio_bytes is .1.; expected .first byte, number of bytes."),
        (LINE | {"audio_bytes": [0, -1]}, r":2: audio_bytes is .0, -1.; expected"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ManifestError, match=r"train\.jsonl" + message):
        read_manifest(write(tmp_path, LINE, line))


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest; expected a file of JSON lines"):
        read_manifest(tmp_path / "nowhere.jsonl")
    with pytest.raises(ManifestError, match="no lines; expected one JSON object a line"):
        read_manifest(write(tmp_path, ""))


def test_other_encodings_are_refused_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, LINE, LINE | {"text": "Tür"})
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1").replace(b"\\u00fc", b"\xfc"))
    with pytest.raises(
        ManifestError, match=r"train\.jsonl:2: byte 0xfc at position \d+ is not UTF-8; save the file as"
    ):
        read_manifest(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path, LINE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert len(read_manifest(path)) == 1
