"""What hostile, careless and vanishing clients do to a server over WebSockets: they are dropped, and it goes on."""

from __future__ import annotations

import base64
import json
import socket
import struct
from contextlib import suppress

import pytest
from clients import closed_or_reset, works
from served import Served, eventually, pcm16, pieces

sync = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed  # noqa: E402 - behind the check that it is installed


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
    for block in pieces(pcm16(), 32000):
        append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(block).decode()}
        kind, message = (0x81, json.dumps(append).encode()) if path == "/v1/realtime" else (0x82, block)
        client.sendall(struct.pack("!BBHI", kind, 0xFE, len(message), 0) + message)  # masked with zeros
    assert eventually(lambda: server.open_sessions() == 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset
    assert eventually(lambda: server.open_sessions() == 0)
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
