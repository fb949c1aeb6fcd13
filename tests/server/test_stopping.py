"""How a server starts and stops: signals, open streams, files on the way."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from served import ENGLISH, TEXT_EN, pcm16, pieces, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
sync = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed  # noqa: E402 - behind the check that it is installed


def rest(client: Any) -> tuple[str, int]:
    """Return the text that still comes, and the code that closes the stream."""
    text = ""
    try:
        while True:
            event = json.loads(client.recv(timeout=60))
            text += event.get("text", "") + event.get("delta", "")
    except ConnectionClosed:
        return text, client.protocol.close_code


def health(kept: socket.socket) -> bytes:
    """Return the whole answer to a request on an open connection."""
    kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer = kept.recv(4096)
    while b"}" not in answer:
        answer += kept.recv(4096)
    return answer


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_open_streams_get_the_rest_of_their_text(signum: int) -> None:
    with (
        served() as server,
        sync.connect(f"{server.ws}/v1/stream?lang=en-en&policy=offline") as stream,
        sync.connect(f"{server.ws}/v1/realtime") as realtime,
    ):
        import base64

        for piece in pieces(pcm16(), 64000):
            stream.send(piece)
        audio = base64.b64encode(pcm16(rate_hz=24000)).decode()
        realtime.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        time.sleep(1.5)  # both have come
        server.process.send_signal(signum)
        assert rest(stream) == (TEXT_EN, 1012)
        assert rest(realtime) == (TEXT_EN, 1012)
        _, err = server.process.communicate(timeout=30)
        assert server.process.returncode == 0, err
        assert "Traceback" not in err


def test_a_stopping_server_refuses_and_a_second_ctrl_c_does_not_wait() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(served(stop_s=30.0, idle_s=60.0))
        half, kept = (stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10)) for _ in range(2))
        head = "Host: 127.0.0.1\r\nContent-Length: 9000\r\nContent-Type: multipart/form-data; boundary=x"
        # An upload that does not go on.
        half.sendall(f"POST /v1/audio/transcriptions HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert health(kept).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert health(kept).startswith(b"HTTP/1.1 503")
        assert server.process.poll() is None
        started_s = time.monotonic()
        code, _ = server.stop(signal.SIGINT)
        assert code == 0
        assert time.monotonic() - started_s < 15


def test_a_file_on_the_way_is_answered() -> None:
    import urllib.request

    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body += ENGLISH.read_bytes() + b"\r\n--x--\r\n"
    with served() as server:
        request = urllib.request.Request(  # noqa: S310 - of this machine
            f"{server.url}/v1/audio/transcriptions", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        threading.Timer(0.05, server.process.send_signal, [signal.SIGTERM]).start()
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - of this machine
            assert json.loads(answer.read())["text"] == TEXT_EN
        assert server.process.wait(30) == 0
