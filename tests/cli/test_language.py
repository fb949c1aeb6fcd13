"""`--lang auto`: shown once, in JSON too, the default of a model that detects, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import run_here
from tiny_whisper import export_whisper, save_whisper


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whisper")
    return export_whisper(save_whisper(directory / "folder", seed=4), directory)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    code, out, err = run_here(capsys, "run", *arguments)
    assert code == 0, err
    return out, err


def test_the_command_detects_by_default(bundle: Path, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, err = run(capsys, wav, "--bundle", bundle)
    assert err in {"language: en (English)\n", "language: de (German)\n"}
    assert run(capsys, wav, "--bundle", bundle, "--lang", "auto") == (text, err)
    code = err.split()[1]
    assert run(capsys, wav, "--bundle", bundle, "--lang", code) == (text, "")
    for stream in ((), ("--stream",)):
        record = json.loads(run(capsys, wav, "--bundle", bundle, "--lang", "auto,auto-en", "--json", *stream)[0])
        assert (record["lang"], record["language"]) == ("auto,auto-en", code)
        assert set(record["texts"]) == {"auto", "auto-en"}
    assert "language" not in json.loads(run(capsys, wav, "--bundle", bundle, "--lang", code, "--json")[0])
    assert run(capsys, wav, "--bundle", bundle, "--stream")[1].startswith("language: ")


def test_the_command_refuses(tiny_bundle: Path, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_here(capsys, "run", wav, "--bundle", tiny_bundle, "--lang", "auto")
    assert (code, out) == (2, "")
    assert "this model detects no language" in err
