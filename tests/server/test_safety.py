"""What hostile, careless and vanishing clients do to a server: they are refused or dropped, and it goes on."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from served import ENGLISH, RATE_HZ, TEXT_EN, TOKEN, Served, eventually, pcm16, pieces, served

sync = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402 - behind the check that it is installed

BOUNDARY = "----tests"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    """A server with a token, that other machines could reach, and with few places."""
    with served(host="0.0.0.0", token=TOKEN, origins=["https://captions.example.com"], sessions=1, files=1) as running:  # noqa: S104 - with a token
        yield running


def form(content: bytes, name: str = "talk.wav", field: str = "file", **fields: str) -> bytes:
    """Return the body of an upload."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(
    server: Served, body: bytes, path: str = "/v1/audio/transcriptions", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an answer to a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} | headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@contextmanager
def closed_or_reset() -> Iterator[None]:
    """End a block where the connection ends, in whatever way."""
    with suppress(ConnectionError):
        yield


def status(server: Served, path: str, **headers: str) -> int:
    try:
        server.get(path, **headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def works(server: Served, **headers: str) -> bool:
    """Return whether the server still transcribes, with no session left from before."""
    code, answer = post(server, form(ENGLISH.read_bytes()), **headers)
    return code == 200 and answer["text"] == TEXT_EN and server.process.poll() is None


BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xff\xfe"]
)
def test_a_wrong_token_opens_nothing(guarded: Served, header: str) -> None:
    for path in ("/v1/models", "/metrics", "/v1/stream", "/nowhere"):
        assert status(guarded, path, Authorization=header) == 401
    code, answer = post(guarded, form(b""), Authorization=header)
    assert (code, answer["error"]["code"]) == (401, "invalid_api_key")
    for path in ("/v1/stream", "/v1/realtime"):
        with (
            pytest.raises(InvalidStatus, match="401"),
            sync.connect(guarded.ws + path, additional_headers={"Authorization": header}),
        ):
            pass


def test_the_token_opens_everything(guarded: Served) -> None:
    assert status(guarded, "/v1/models", **BEARER) == 200
    assert works(guarded, **BEARER)
    protocols = ["bestow-edge", f"openai-insecure-api-key.{TOKEN}"]  # as a browser sends it
    with sync.connect(f"{guarded.ws}/v1/stream?lang=en-en", subprotocols=protocols) as client:
        assert client.subprotocol == "bestow-edge"
        assert json.loads(client.recv())["event"] == "started"
    wrong = ["bestow-edge", "openai-insecure-api-key.x"]
    with pytest.raises(InvalidStatus, match="401"), sync.connect(f"{guarded.ws}/v1/stream", subprotocols=wrong):
        pass


def test_page_and_health_need_no_token(guarded: Served) -> None:
    assert b"Live captions" in guarded.get("/")
    assert b"AudioWorkletProcessor" in guarded.get("/static/recorder.js")
    assert json.loads(guarded.get("/healthz")) == {"status": "ok"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://captions.example.com", True),
        ("http://127.0.0.1:{port}", True),
        ("https://evil.example.com", False),
        ("null", False),
        ("http://127.0.0.1:1", False),
        ("http://[", False),
        ("https://captions.example.com.evil.com", False),
    ],
)
def test_only_known_pages_may_use_the_server(guarded: Served, origin: str, allowed: bool) -> None:
    origin = origin.format(port=guarded.port)
    code, _ = post(guarded, form(b"no audio"), Origin=origin, **BEARER)
    assert code == (400 if allowed else 403)
    headers = BEARER | {"Origin": origin}
    if allowed:
        with sync.connect(f"{guarded.ws}/v1/stream?lang=en-en", additional_headers=headers) as client:
            assert json.loads(client.recv())["event"] == "started"
    else:
        with (
            pytest.raises(InvalidStatus, match="403"),
            sync.connect(f"{guarded.ws}/v1/stream", additional_headers=headers),
        ):
            pass


def test_without_a_token_only_localhost_is_answered(server: Served) -> None:
    for host in ("evil.example.com", f"evil.example.com:{server.port}", "[", "127.0.0.1.evil.com"):
        assert status(server, "/v1/models", Host=host) == 403
    for host in (f"localhost:{server.port}", "127.0.0.1", "[::1]:8000"):
        assert status(server, "/v1/models", Host=host) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/..\\app.py",
        "/static/index.html%00.js",
        "/static/",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/..%2f..",
        "/" + "a" * 5000,
    ],
)
def test_no_path_leads_out_of_the_static_files(server: Served, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"import" not in answer.read()
    connection.close()


def test_full_places_are_refused_and_given_back(guarded: Served) -> None:
    assert eventually(lambda: guarded.figure('bestow_edge_sessions_open{kind="stream"}', **BEARER) == 0)
    url = f"{guarded.ws}/v1/stream?lang=en-en"
    with sync.connect(url, additional_headers=BEARER) as first:
        assert json.loads(first.recv())["event"] == "started"
        for path in ("/v1/stream", "/v1/realtime"):
            with sync.connect(guarded.ws + path, additional_headers=BEARER) as second:
                assert "1 stream at once" in second.recv()
                with pytest.raises(ConnectionClosed) as closed:
                    second.recv()
                assert closed.value.rcvd.code == 1013
                assert "try again later" in closed.value.rcvd.reason
        assert works(guarded, **BEARER)  # files have places of their own
    assert eventually(lambda: guarded.figure('bestow_edge_sessions_open{kind="stream"}', **BEARER) == 0)


def upload_slowly(server: Served, body: bytes, **headers: str) -> socket.socket:
    """Return a connection that has sent the begin of an upload."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    lines = {
        "Host": "127.0.0.1",
        "Content-Length": str(len(body)),
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | headers).items())
    client.sendall(f"POST /v1/audio/transcriptions HTTP/1.1\r\n{head}\r\n".encode() + body[:400])
    return client


def test_a_full_server_answers_503_to_a_file(guarded: Served) -> None:
    with upload_slowly(guarded, form(ENGLISH.read_bytes()), **BEARER):
        assert eventually(lambda: guarded.figure('bestow_edge_sessions_open{kind="file"}', **BEARER) == 1)
        code, answer = post(guarded, form(ENGLISH.read_bytes()), **BEARER)
        assert (code, answer["error"]["code"]) == (503, "overloaded")
        assert "1 file at once" in answer["error"]["message"]
    assert eventually(lambda: guarded.figure('bestow_edge_sessions_open{kind="file"}', **BEARER) == 0)
    assert works(guarded, **BEARER)


def test_an_upload_that_stops_is_dropped(server: Served) -> None:
    with upload_slowly(server, form(ENGLISH.read_bytes())) as client:
        started_s = time.monotonic()
        answer = client.recv(4096)
        assert b"408" in answer.splitlines()[0]
        assert 3 < time.monotonic() - started_s < 15
    assert works(server)


def test_too_large_uploads_are_refused_by_their_header_and_by_their_bytes(server: Served) -> None:
    code, answer = post(server, form(bytes(1_100_000)))
    assert (code, answer["error"]["message"]) == (413, "the upload is larger than 1 MB")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        head = (
            f"Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}"
        )
        client.sendall(f"POST /v1/audio/transcriptions HTTP/1.1\r\n{head}\r\n\r\n".encode())
        body = form(bytes(1_100_000))
        for piece in pieces(body, 100_000):
            client.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        assert b"413" in client.recv(4096).splitlines()[0]
    assert works(server)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"x=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"", {}, 400),
        (b"garbage", {}, 400),
        (form(b"x"), {"Content-Type": "multipart/form-data"}, 400),
        (form(b"x", field="data"), {}, 400),
        (form(b"x", **{f"field{number}": "x" for number in range(40)}), {}, 400),
        (form(b"x", language="e" * 100_000), {}, 400),
        (form(b"RIFF\xff\xff\xff\xffWAVEfmt " + os.urandom(5000)), {}, 400),
        (form(b"fLaC" + os.urandom(5000)), {}, 400),
        (form(ENGLISH.read_bytes(), name="../../../etc/cron.d/talk.wav", language="../en"), {}, 400),
        (form(b"x", name="\x00\x01<script>.wav"), {}, 400),
    ],
)
def test_wrong_bodies_are_refused_with_a_sentence(
    server: Served, body: bytes, headers: dict[str, str], code: int
) -> None:
    got, answer = post(server, body, **headers)
    assert got == code
    assert answer["error"]["message"]
    assert "/tmp" not in answer["error"]["message"]  # noqa: S108 - where the file lies is not told
    assert works(server)


def test_a_long_file_of_few_bytes_is_refused(server: Served) -> None:
    import io

    import numpy as np
    import soundfile

    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(RATE_HZ * 90, np.int16), RATE_HZ, format="FLAC")
    assert len(silence.getvalue()) < 100_000
    code, answer = post(server, form(silence.getvalue(), name="long.flac"))
    assert (code, answer["error"]["message"]) == (413, "long.flac: longer than 60 s; send it in parts")


def test_connections_without_a_request_are_dropped(server: Served) -> None:
    for begin in (b"", b"GET / HTTP/1.1\r\nHost: local", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            started_s = time.monotonic()
            client.sendall(begin)
            with closed_or_reset():
                while client.recv(4096):
                    pass
            assert time.monotonic() - started_s < 10


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"X: " + b"y" * 200_000,
    ],
)
def test_bytes_that_are_no_request_are_refused(server: Served, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client, closed_or_reset():
        client.sendall(request_bytes)
        assert client.recv(4096)[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403", b""}
    assert works(server)


def test_a_stream_without_settings_or_audio_is_closed(server: Served) -> None:
    with sync.connect(f"{server.ws}/v1/stream") as client:
        assert "no message for 2 s" in client.recv(timeout=20)
    with sync.connect(f"{server.ws}/v1/stream?lang=en-en") as client:
        assert json.loads(client.recv())["event"] == "started"
        assert "no message for 4 s" in client.recv(timeout=20)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("path", ["/v1/stream?lang=en-en", "/v1/realtime"])
def test_an_oversized_message_closes_the_stream(server: Served, path: str) -> None:
    with sync.connect(server.ws + path) as client:
        client.recv()
        with suppress(ConnectionClosed):
            client.send(bytes(3 * 1024 * 1024))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert eventually(lambda: server.open_sessions() == 0)


def raw_socket(server: Served, path: str) -> socket.socket:
    """Return a WebSocket without a library, past its handshake."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    upgrade += "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}\r\n\r\n".encode())
    assert b"101" in client.recv(4096).splitlines()[0]
    return client


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x04abcd",
        b"\xf2\x80\x00\x00\x00\x00",
        b"\x8f\x80\x00\x00\x00\x00",
        b"\x82\xff" + b"\xff" * 12,
        b"\x81\x82\x00\x00\x00\x00\xff\xfe",
    ],
)
def test_wrong_frames_end_the_connection(server: Served, frame: bytes) -> None:
    """Unmasked, reserved bits, an unknown kind, a length of 2^64, text that is no UTF-8."""
    with raw_socket(server, "/v1/stream?lang=en-en") as client, closed_or_reset():
        client.sendall(frame)
        while client.recv(4096):
            pass
    assert eventually(lambda: server.open_sessions() == 0)
    assert works(server)


@pytest.mark.parametrize("path", ["/v1/stream?lang=en-en,en-de", "/v1/realtime"])
def test_a_client_that_vanishes_frees_its_place(server: Served, path: str) -> None:
    client = raw_socket(server, path)
    for block in pieces(pcm16(), 64000):
        client.sendall(struct.pack("!BBHI", 0x82, 0xFE, len(block), 0) + block)  # masked with zeros
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset
    assert eventually(lambda: server.open_sessions() == 0)
    assert works(server)


def test_a_client_that_leaves_during_a_file_frees_its_place(server: Served) -> None:
    lost = server.figure("bestow_edge_lost_clients_total")
    body = form(ENGLISH.read_bytes())
    client = upload_slowly(server, body)
    client.sendall(body[400:])
    client.close()
    with upload_slowly(server, body):
        pass  # leaves while it sends
    assert eventually(lambda: server.open_sessions() == 0)
    assert eventually(lambda: server.figure("bestow_edge_lost_clients_total") >= lost + 1)
    assert works(server)


def test_a_client_that_sends_faster_than_computing_is_slowed_down(server: Served) -> None:
    audio = pcm16() * 40  # 164 s
    with sync.connect(f"{server.ws}/v1/stream?lang=en-en") as client:
        most_s = 0.0
        for piece in pieces(audio, 320_000):
            client.send(piece)
        client.send(json.dumps({"event": "end"}))
        while (event := json.loads(client.recv(timeout=60)))["event"] != "end":
            most_s = max(most_s, event.get("waiting_s", 0.0))
        assert event["audio_s"] == pytest.approx(163.8, abs=0.2)
        assert 5 < most_s <= 10


def test_a_client_that_does_not_read_is_dropped(server: Served) -> None:
    client = raw_socket(server, "/v1/realtime")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wrong = json.dumps({"type": "x" * 30, "event_id": "y" * 30_000}).encode()
    frame = struct.pack("!BBHI", 0x81, 0xFE, len(wrong), 0) + wrong
    client.settimeout(5)
    with closed_or_reset():
        try:
            for _ in range(2000):
                client.sendall(frame)
        except TimeoutError:
            pass
    assert eventually(lambda: server.open_sessions() == 0, 30)
    client.close()
    assert works(server)
