"""Shards: the same utterances as the manifests, complete or not there, gone on with, read by other tools."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sentences import write_lines

from bestow_edge.core.errors import AudioError, ConfigError, ManifestError
from bestow_edge.core.utterances import Utterance, read_manifest
from bestow_edge.training.data.corpora import shards as module
from bestow_edge.training.data.corpora.recordings import Recordings
from bestow_edge.training.data.corpora.shards import shard_indexes, write_shards

RATE_HZ = 16000
SIZE = 200_000
READ = """
import json, sys
from pathlib import Path
from webdataset import WebDataset
tars = sorted(map(str, Path(sys.argv[1]).glob("*.tar")))
samples = WebDataset(tars, shardshuffle=False, empty_check=False)  # it leaves its files open: a process of its own
print(json.dumps([[json.loads(sample["json"])["text"], sample["wav"][:4].decode()] for sample in samples]))
"""


def utterances(out: Path) -> list[Utterance]:
    return [item for path in shard_indexes(out) for item in read_manifest(path)]


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".")}


def test_every_utterance_is_there_once_with_its_audio(sentences: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = write_shards(
        [sentences / "train.jsonl"], tmp_path / "out", size_bytes=SIZE, seed=0, progress=lambda *done: seen.append(done)
    )
    assert (written.utterances, written.made_before, written.bad) == (40, 0, 0)
    assert written.shards > 2
    assert seen[0] == (0, 40)
    assert seen[-1] == (40, 40)
    there, before = utterances(tmp_path / "out"), read_manifest(sentences / "train.jsonl")
    assert sorted(item.texts["en"] for item in there) == sorted(item.texts["en"] for item in before)
    assert [item.texts["en"] for item in there] != [item.texts["en"] for item in before]
    recordings = Recordings(RATE_HZ)
    originals = {recordings.read(item).tobytes(): item for item in before}
    for item in there:
        original = originals.pop(recordings.read(item).tobytes())
        assert (item.texts, item.word_times, item.speaker) == (original.texts, original.word_times, original.speaker)
    assert all(path.stat().st_size < 2 * SIZE for path in (tmp_path / "out").glob("*.tar"))


def test_tarfile_and_the_webdataset_library_read_them(sentences: Path, tmp_path: Path) -> None:
    write_shards([sentences / "dev.jsonl"], tmp_path, size_bytes=SIZE, seed=0)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names[:4]] == ["json", "wav", "json", "wav"]
        entry = json.load(tar.extractfile(names[0]))  # type: ignore[arg-type]  # it is a file
        assert entry["audio_filepath"] == names[1]
        assert "audio_bytes" not in entry
    pytest.importorskip("webdataset")
    done = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=True)
    samples = json.loads(done.stdout)
    assert sorted(text for text, _ in samples) == sorted(
        item.texts["en"] for item in read_manifest(sentences / "dev.jsonl")
    )
    assert {head for _, head in samples} == {"RIFF"}


@pytest.mark.parametrize("fail_at", [1, 17, 39])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    manifests = [sentences / "train.jsonl"]
    write_shards(manifests, tmp_path / "whole", size_bytes=SIZE, seed=3)

    def stop(done: int, _all: int) -> None:
        if done == fail_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(manifests, tmp_path / "out", size_bytes=SIZE, seed=3, progress=stop)
    with pytest.raises(ManifestError, match="its shards are not complete; run the same `bestow-edge data shard` again"):
        shard_indexes(tmp_path / "out")
    complete = sorted((tmp_path / "out").glob("shard-*.jsonl"))
    assert len(complete) == len(sorted((tmp_path / "out").glob("shard-*.tar")))
    read: list[str] = []
    monkeypatch.setattr(module, "recording_bytes", _counted(module.recording_bytes, read))
    written = write_shards(manifests, tmp_path / "out", size_bytes=SIZE, seed=3)
    assert written.made_before == len(complete)
    assert len(read) == 40 - sum(len(read_manifest(path)) for path in complete)
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")


def _counted(function: Any, calls: list[str]) -> Any:
    def call(item: Utterance) -> Any:
        calls.append(item.path.name)
        return function(item)

    return call


def test_other_settings_are_refused(sentences: Path, tmp_path: Path) -> None:
    write_shards([sentences / "dev.jsonl"], tmp_path, size_bytes=SIZE, seed=0)
    with pytest.raises(ConfigError, match="holds shards with another seed; choose another directory or delete it"):
        write_shards([sentences / "dev.jsonl"], tmp_path, size_bytes=SIZE, seed=1)
    with pytest.raises(ConfigError, match="another manifests, size_bytes"):
        write_shards([sentences / "train.jsonl"], tmp_path, size_bytes=1, seed=0)


def test_windows_are_cut_out(sentences: Path, tmp_path: Path) -> None:
    line = {"audio_filepath": str(sentences / "06.wav"), "duration": 0.5, "offset": 0.3, "text": "a"}
    path = write_lines(tmp_path / "windows.jsonl", [line, line | {"offset": None}])
    write_shards([path], tmp_path / "out", size_bytes=SIZE, seed=0)
    whole, _ = soundfile.read(sentences / "06.wav", dtype="float32")
    there = {item.texts["en"]: item for item in utterances(tmp_path / "out")}
    assert {item.offset_s for item in there.values()} == {0.0}
    cut = [Recordings(RATE_HZ).read(item) for item in utterances(tmp_path / "out")]
    expected = {start: whole[start : start + 8016] for start in (0, 4800)}
    for samples in cut:
        assert any(np.abs(samples - want[: samples.size]).max() < 1e-4 for want in expected.values())


def test_bad_recordings_are_an_error_or_left_out(sentences: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (sentences / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line | {"audio_filepath": str(sentences / line["audio_filepath"])} for line in lines]
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    path = write_lines(tmp_path / "a.jsonl", [*lines, lines[0] | {"audio_filepath": str(tmp_path / "bad.wav")}])
    with pytest.raises(ManifestError, match=r"a\.jsonl:9: .*bad\.wav: cannot be read as audio .*--max-bad allows some"):
        write_shards([path], tmp_path / "out", size_bytes=SIZE, seed=0)
    written = write_shards([path], tmp_path / "out", size_bytes=SIZE, seed=0, max_bad=1)
    assert (written.bad, written.utterances) == (1, 8)
    assert len(utterances(tmp_path / "out")) == 8


def test_what_is_no_directory_of_shards(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"no shards\.json; expected a directory that `bestow-edge data shard` wrote"
    ):
        shard_indexes(tmp_path)
    write_shards([sentences / "dev.jsonl"], tmp_path / "out", size_bytes=SIZE, seed=0)
    (tmp_path / "out" / "shard-000000.tar").unlink()
    with pytest.raises(ManifestError, match=r"shard-000000\.jsonl: no such shard, but shards\.json counts"):
        shard_indexes(tmp_path / "out")
    with pytest.raises(ManifestError, match=r"a\.jsonl: no lines; nothing to make shards of"):
        write_shards([write_lines(tmp_path / "a.jsonl", [])], tmp_path / "b", size_bytes=SIZE, seed=0)


def test_copies_are_kept_while_they_are_needed(sentences: Path, tmp_path: Path) -> None:
    write_shards([sentences / "train.jsonl"], tmp_path / "out", size_bytes=SIZE, seed=0)
    items = utterances(tmp_path / "out")
    plain = Recordings(RATE_HZ)
    cached = Recordings(RATE_HZ, cache=tmp_path / "cache", kept=2)
    for item in [*items, *items[:5]]:
        assert np.array_equal(cached.read(item), plain.read(item))
        assert len(list((tmp_path / "cache").glob("*.tar"))) <= 2
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_recordings_that_cannot_be_used(sentences: Path, tmp_path: Path) -> None:
    item = read_manifest(sentences / "train.jsonl")[6]

    def changed(**fields: Any) -> Utterance:
        return Utterance(**{name: getattr(item, name) for name in item.__slots__} | fields)

    recordings = Recordings(RATE_HZ)
    assert recordings.read(item).size == round(item.duration_s * RATE_HZ)
    assert Recordings(8000).read(item).size == round(item.duration_s * 8000)
    window = recordings.read(changed(offset_s=0.5, duration_s=0.25))
    assert abs(window.size - 4000) <= 16
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(32000, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    for fields, message in [
        ({"path": tmp_path / "nowhere.wav"}, "no such file"),
        ({"path": tmp_path / "bad.wav"}, "cannot be read as audio"),
        ({"path": tmp_path / "nan.wav"}, "NaN or infinite"),
        ({"duration_s": 9.0}, r"has 1\.60 s from 0 s on, the manifest says 9 s"),
        ({"audio_bytes": (10**9, 5)}, "ends within a recording; copy the shard again"),
        ({"path": tmp_path / "nowhere.tar", "audio_bytes": (0, 5)}, r"nowhere\.tar: cannot be read \(No such file"),
    ]:
        with pytest.raises(AudioError, match=message):
            recordings.read(changed(**fields))
