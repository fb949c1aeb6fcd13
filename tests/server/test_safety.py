"""What hostile, careless and vanishing clients do to a server: they are refused or dropped, and it goes on."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from clients import BOUNDARY, closed_or_reset, form, post, works
from served import ENGLISH, RATE_HZ, TOKEN, Served, eventually, pieces, served

sync = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402 - behind the check that it is installed


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    """A server with a token, that other machines could reach, and with few places."""
    with served(host="0.0.0.0", token=TOKEN, origins=["https://captions.example.com"], sessions=1, files=1) as running:  # noqa: S104 - with a token
        yield running


def status(server: Served, path: str, **headers: str) -> int:
    try:
        server.get(path, **headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


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


def answers(server: Served) -> bool:
    try:
        return bool(server.get("/healthz"))
    except OSError:  # full
        return False


def test_a_thousand_connections_leave_nothing(server: Served) -> None:
    """More than the server takes at once, of which some speak: the rest is refused, and the next client is served."""
    with ExitStack() as stack:
        opened = []
        for number in range(1000):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            if number % 3 == 0:
                with closed_or_reset():
                    client.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n" * (number % 2))
            opened.append(client)
        refused = b""
        with closed_or_reset():
            refused = opened[-1].recv(4096)
        assert refused[:12] in {b"HTTP/1.1 503", b""}
    assert eventually(lambda: answers(server))
    assert works(server)
    assert server.open_sessions() == 0


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


@pytest.mark.parametrize("megabytes", [0.1, 1.5])
def test_a_disk_that_takes_nothing_refuses_uploads_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, megabytes: float
) -> None:
    """Above 1 MB the form is on the disk before the upload is."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with served(upload_mb=4.0) as server:
        assert works(server)
        shutil.rmtree(folder)  # the folder of the request before may still be in it
        code, answer = post(server, form(b"\0" * int(megabytes * 1e6)))
        assert (code, answer["error"]["type"]) == (507, "server_error")
        assert answer["error"]["message"] == "the server cannot store uploads now: No such file or directory"
        with sync.connect(f"{server.ws}/v1/stream?lang=en-en") as client:
            assert json.loads(client.recv())["event"] == "started"
        folder.mkdir()
        assert works(server)
