"""The command line in a process of its own, as users run it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Finished = subprocess.CompletedProcess[str]
RUN = "from bestow_edge.cli.main import main; main()"


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Finished]:
    """Return a function that runs `bestow-edge` in an empty directory; `before` is Python run first."""

    def call(*arguments: object, before: str = "", timeout_s: float = 120) -> Finished:
        done = subprocess.run(
            [sys.executable, "-c", f"{before}\n{RUN}", *map(str, arguments)],
            cwd=tmp_path,
            env=dict(os.environ, PYTHONIOENCODING="utf-8"),
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


@pytest.fixture
def wav(tmp_path: Path, speech: np.ndarray) -> Path:
    """Three seconds of speech-like sound in a 16-bit wav of 16 kHz."""
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[: 3 * 16_000], 16_000)
    return path


@pytest.fixture(scope="session")
def asked_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as if it had been trained for questions about English speech; one token in nine ends a text."""
    copy = tmp_path_factory.mktemp("asked") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    path = copy / "bundle.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model"]["questions"] = ["en"]
    document["end_ids"] = list(range(0, 300, 9))
    path.write_text(json.dumps(document), encoding="utf-8")
    return copy
