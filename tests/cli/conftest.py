"""The command line in a process of its own, as users run it."""

import os
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
