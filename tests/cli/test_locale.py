"""Names and texts in any script, whatever the locale and the code page of the terminal are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import GERMAN

SAID = "fünf vier eins sieben neun"
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # names of files are then bytes to Python


@pytest.mark.parametrize("environment", [PLAIN, {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}])
def test_files_and_texts_in_any_script(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "ein Ordner ελ"
    folder.mkdir()
    recording, subtitles = folder / "fünf 数字.wav", folder / "Ausgabe ß.srt"
    shutil.copy(GERMAN, recording)
    command = [sys.executable, "-m", "bestow_edge", "run", recording, "--lang", "de", "--bundle", "demo"]
    env = os.environ | environment
    printed = subprocess.run(command, env=env, capture_output=True, timeout=120, check=True).stdout
    assert printed.decode("utf-8").strip() == SAID
    written = [*command, "--format", "srt", "--output", subtitles]
    subprocess.run(written, env=env, capture_output=True, timeout=120, check=True)
    assert SAID in subtitles.read_text(encoding="utf-8")
    missing = subprocess.run([*command[:4], folder / "数.wav"], env=env, capture_output=True, timeout=120, check=False)
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr
