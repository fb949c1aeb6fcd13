"""A server in a process of its own, with limits small enough to reach."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bestow_edge as be

AUDIO = Path(__file__).parents[2] / "examples" / "audio"
ENGLISH, GERMAN = AUDIO / "digits_en.wav", AUDIO / "digits_de.wav"
TEXT_EN, TEXT_DE = "nine one five seven zero", "neun eins fünf sieben null"
TOKEN = "secret-of-the-tests-1234"  # noqa: S105 - of servers that live as long as a test
RATE_HZ = 16000
SCRIPT = """
import json, sys
from bestow_edge.cli.show.console import logs_on_stderr
from bestow_edge.runtime import load
from bestow_edge.server.guard import Access
from bestow_edge.server.hub import Hub
from bestow_edge.server.limits import Limits
from bestow_edge.server.serving import serve

limits, access = json.loads(sys.argv[1])
hub = Hub(load("demo", threads=1, ahead=False), name="demo", limits=Limits(**limits))
started = lambda port: print(f"serving on http://127.0.0.1:{port};", file=sys.stderr, flush=True)
with logs_on_stderr():
    serve(hub, Access(**{"host": "127.0.0.1"} | access), port=0, started=started)
"""


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self.lines: list[str] = []
        for line in process.stderr:
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(f"the server did not start: {self.lines}")
        self.url, self.ws = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> bytes:
        """Return the body of an answer."""
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - of this machine
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - of this machine
            return bytes(answer.read())

    def figure(self, name: str, **headers: str) -> float:
        """Return a figure of /metrics by its whole name with labels."""
        lines = self.get("/metrics", **headers).decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def open_sessions(self) -> float:
        """Return the number of sessions of all kinds."""
        return sum(self.figure(f'bestow_edge_sessions_open{{kind="{kind}"}}') for kind in ("stream", "file"))

    def stop(self, signum: int) -> tuple[int, str]:
        """Send a signal; return exit code and the rest of stderr."""
        self.process.send_signal(signum)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@contextmanager
def served(command: list[str] | None = None, **settings: Any) -> Iterator[Served]:
    """Start a server, if the extra is installed; settings are limits, and those of access: host, token, origins."""
    for name in ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client"):
        pytest.importorskip(name)
    access = {name: settings.pop(name) for name in ("host", "token", "origins") if name in settings}
    command = command or [sys.executable, "-c", SCRIPT, json.dumps([settings, access])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


def eventually(holds: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Return whether a condition holds before the time is over."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if holds():
            return True
        time.sleep(0.1)
    return False


def pcm16(path: Path = ENGLISH, rate_hz: int = RATE_HZ) -> bytes:
    """Return a recording as 16-bit samples."""
    return (be.read_audio(path, rate_hz) * 32767).astype("<i2").tobytes()


def pieces(audio: bytes, size: int = 2560) -> list[bytes]:
    """Return bytes in pieces."""
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def floats(path: Path = ENGLISH) -> bytes:
    """Return a recording as float32 samples."""
    return be.read_audio(path, RATE_HZ).astype(np.float32).tobytes()
