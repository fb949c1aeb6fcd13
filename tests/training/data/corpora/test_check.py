"""What a check finds, each kind of problem with file and line, and what a summary counts."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sentences import write_lines

from bestow_edge.core.errors import ManifestError
from bestow_edge.training.data.corpora.check import Findings, check_manifests, check_texts, odd_letters
from bestow_edge.training.data.corpora.shards import shard_indexes, write_shards
from bestow_edge.training.data.corpora.summary import summarise

Lines = list[dict[str, Any]]


@pytest.fixture
def lines(sentences: Path) -> Lines:
    """The lines of a manifest, with absolute paths."""
    read = [json.loads(line) for line in (sentences / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line | {"audio_filepath": str(sentences / line["audio_filepath"])} for line in read]


def checked(path: Path, jobs: int = 2) -> Findings:
    return check_manifests([path], rate_hz=16000, jobs=jobs)


@pytest.mark.parametrize("name", ["train.jsonl", "qa.jsonl"])
def test_nothing_is_wrong_with_good_data(sentences: Path, name: str) -> None:
    done: list[tuple[int, int]] = []
    paths = [sentences / name]
    findings = check_manifests(paths, rate_hz=16000, jobs=3, progress=lambda *now: done.append(now))
    assert findings.problems == []
    assert not findings.notes
    assert done[-1] == (findings.lines, findings.lines)
    lines = paths[0].read_text(encoding="utf-8").splitlines()
    assert findings.seconds == pytest.approx(sum(json.loads(line)["duration"] for line in lines))


def test_shards_are_checked_as_manifests_are(sentences: Path, tmp_path: Path) -> None:
    write_shards([sentences / "train.jsonl"], tmp_path, size_bytes=200_000, seed=0)
    assert check_manifests(shard_indexes(tmp_path), rate_hz=16000, jobs=2).problems == []
    with (tmp_path / "shard-000001.tar").open("r+b") as tar:
        tar.truncate(100_000)
    problems = check_manifests(shard_indexes(tmp_path), rate_hz=16000, jobs=2).problems
    assert {problem.kind for problem in problems} <= {"unreadable", "duration"}
    assert all(problem.where.startswith(str(tmp_path / "shard-000001.jsonl:")) for problem in problems)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"audio_filepath": "nowhere.wav"}, "missing", "nowhere.wav: no such file"),
        ({"audio_filepath": "FOLDER/text.wav"}, "unreadable", "cannot be read as audio"),
        ({"duration": 2.2}, "duration", "manifest says 2.2 s, 04.wav has 1.200 s"),
        ({"duration": 1.0}, "duration", "manifest says 1 s, 04.wav has 1.200 s"),
        ({"audio_filepath": "FOLDER/zero.wav", "duration": 1.0}, "silent", "is silent (-200 dB) but has a text"),
        ({"text": "a\x07b"}, "text", "en has U+0007, control"),
        ({"text": "\ufffd"}, "text", "U+FFFD, the mark of characters that were lost"),
        ({"translations": {"de": unicodedata.normalize("NFD", "fünf")}}, "text", "de is not in Unicode's"),
        ({"duration": "long"}, "line", "duration is 'long'; expected a number"),
        ({"text": None}, "line", "text is None; expected text"),
    ],
)
def test_problems_name_their_line(
    lines: Lines, tmp_path: Path, change: dict[str, Any], kind: str, message: str
) -> None:
    (tmp_path / "text.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "zero.wav", np.zeros(16000), 16000)
    lines[4] |= {"word_times": None} | change
    lines[4]["audio_filepath"] = lines[4]["audio_filepath"].replace("FOLDER", str(tmp_path))
    path = write_lines(tmp_path / "a.jsonl", lines)
    (problem,) = checked(path).problems
    assert (problem.where, problem.kind) == (f"{path}:5", kind)
    assert message in problem.message
    assert checked(path, jobs=1).to_dict() == checked(path, jobs=4).to_dict()


def test_duplicates_and_notes(lines: Lines, tmp_path: Path) -> None:
    samples, _ = soundfile.read(lines[3]["audio_filepath"])
    soundfile.write(tmp_path / "copy.wav", samples, 16000)
    soundfile.write(tmp_path / "slow.wav", 0.1 * np.sin(np.arange(8000.0)), 8000)
    slow = {"audio_filepath": str(tmp_path / "slow.wav"), "duration": 1.0, "text": "", "source_lang": "xx"}
    path = write_lines(tmp_path / "a.jsonl", [*lines, lines[3] | {"audio_filepath": "copy.wav"}, lines[0], slow])
    findings = checked(path)
    assert [(item.where, item.kind, item.message) for item in findings.problems] == [
        (f"{path}:9", "duplicate", f"same samples as {path}:4"),
        (f"{path}:10", "duplicate", f"same samples as {path}:1"),
    ]
    assert findings.notes == {
        "recorded at 8000 Hz, resampled to 16000 Hz": 1,
        "empty text: nothing is said": 1,
        "speech in 'xx', for which there is no prompt": 1,
    }


def test_windows_of_one_file_are_no_problem(lines: Lines, tmp_path: Path) -> None:
    line = lines[6] | {"duration": 0.5, "word_times": None}
    path = write_lines(tmp_path / "a.jsonl", [line | {"offset": 0}, line | {"offset": 0.6}])
    assert checked(path).problems == []
    (problem,) = checked(write_lines(tmp_path / "a.jsonl", [line | {"offset": 1.4}])).problems
    assert problem.kind == "duration"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        checked(tmp_path / "nowhere.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"{}\n\xff\n{}\n")
    problems = checked(tmp_path / "a.jsonl").problems
    assert ["byte 0xff" in problem.message for problem in problems].count(True) == 1


def test_texts(sentences: Path, tmp_path: Path) -> None:
    assert check_texts(sentences / "texts.tsv.gz").problems == []
    assert check_texts(sentences / "plain.jsonl").lines == 20
    path = tmp_path / "a.tsv"
    path.write_text("en\tde\none\teins\ntwo\nthr\x00ee\tdrei\n", encoding="utf-8")
    findings = check_texts(path)
    assert findings.lines == 3
    assert [(problem.where, problem.kind) for problem in findings.problems] == [
        (f"{path}:3", "line"),
        (f"{path}:4", "text"),
    ]


@pytest.mark.parametrize("text", ["größer", "日本語", "naïve ¿qué?", "a\tb", "👩‍👩‍👧"])
def test_letters_of_all_languages_are_fine(text: str) -> None:
    assert not list(odd_letters(text))


def test_summary(sentences: Path, tmp_path: Path) -> None:
    counted = summarise([sentences / "train.jsonl", sentences / "qa.jsonl"])
    values: Any = counted.to_dict()
    assert values["utterances"] == 60
    speech = values["languages"]["en"]
    assert (speech["speakers"], speech["questions"], speech["word_times"]) == (3, 20, 50)
    assert speech["translations"] == {"de": 50}
    lines = [json.loads(line) for line in (sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    only = summarise([sentences / "train.jsonl"])
    words, seconds = sum(len(line["text"].split()) for line in lines), sum(line["duration"] for line in lines)
    assert only.to_dict()["languages"]["en"]["words_per_s"] == round(words / seconds, 2)  # type: ignore[index]  # nested
    assert only.hours == pytest.approx(seconds / 3600)
    assert sum(count for _, count, _ in counted.lengths()) == 60
    assert [name for name, _, _ in counted.lengths()] == ["0-1 s", "1-2 s"]
    assert values["quantiles_s"]["1"] == pytest.approx(1.6)
    with pytest.raises(ManifestError, match="no lines"):
        summarise([write_lines(tmp_path / "a.jsonl", [])])
