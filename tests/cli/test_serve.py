"""`bestow-edge serve`: wrong use is one sentence, and the server answers where it says."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from commands import IN_BACKGROUND, run_demo
from served import served

COMMAND = [sys.executable, "-m", "bestow_edge.cli.main", "serve", "--port", "0"]
pytest.importorskip("starlette")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "give a token"),  # noqa: S104 - refused
        (["--token", "short"], "at least 16 letters"),
        (["--origin", "example.com"], "without a path"),
        (["--idle", "0"], "idle_s 0.0: expected a positive number"),
        (["--upload-mb", "-1"], "upload_mb -1.0: expected a positive number"),
        (["--sessions", "0"], "--sessions"),
        (["--port", "70000"], "--port"),
        (["--host", "192.0.2.1", "--token", "0123456789abcdef"], "cannot listen there"),
        (["--bundle", "no-such"], "no-such"),
    ],
)
def test_wrong_use(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = run_demo(capsys, "serve", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run_demo(capsys, "serve", "--port", taken.getsockname()[1])
    assert code == 2
    assert "choose another --host or --port" in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("before", [[], IN_BACKGROUND])
def test_the_command_serves_and_stops(before: list[str]) -> None:
    with served([*before, *COMMAND, "--name", "digits", "--sessions", "2"]) as server:
        if before:
            server.process.send_signal(signal.SIGINT)  # is ignored
            time.sleep(1)
        assert json.loads(server.get("/v1/models"))["data"][0]["id"] == "digits"
        code, err = server.stop(signal.SIGTERM)
        assert (code, err.splitlines()) == (0, ["stopped"])


def test_a_missing_extra_is_named() -> None:
    script = "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
    script += "from bestow_edge.cli.main import main; main(['serve'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "pip install 'bestow-edge[server]'" in done.stderr
