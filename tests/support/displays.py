"""A screen without a monitor, for tests and pictures of windows. Needs Xvfb."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def virtual_screen(size: str = "1280x720") -> Iterator[str]:
    """Run an X server and yield the name of its display."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", f"{size}x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f":{int(server.stdout.readline())}"
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def screen() -> Iterator[str]:
    """A screen until the end of the tests: Tk keeps its connection, and ends the process if the server goes away."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter (apt install python3-tk)")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed (apt install xvfb)")
    with virtual_screen() as name:
        yield name


@pytest.fixture
def display(screen: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The screen on which this process and those that it starts open their windows."""
    monkeypatch.setenv("DISPLAY", screen)
    return screen
