"""Clients of a server that speak HTTP by hand."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from served import ENGLISH, TEXT_EN, Served

BOUNDARY = "----tests"


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


def works(server: Served, **headers: str) -> bool:
    """Return whether the server still transcribes, with no session left from before."""
    code, answer = post(server, form(ENGLISH.read_bytes()), **headers)
    return code == 200 and answer["text"] == TEXT_EN and server.process.poll() is None


@contextmanager
def closed_or_reset() -> Iterator[None]:
    """End a block where the connection ends, in whatever way."""
    with suppress(ConnectionError):
        yield
