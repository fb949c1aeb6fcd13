"""Conversations with the server's application, in this process: messages of both WebSockets, queries and uploads."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import urllib.parse
from pathlib import Path
from random import Random
from typing import Any

from fuzz.harness import Attempt
from fuzz.mutation import HOSTILE, changed_bytes, changed_tree
from fuzz.seeds import Seeds, recordings, sound

from bestow_edge.core.errors import RefusedError

SETTINGS: dict[str, Any] = {
    "lang": "en-en,en-de", "policy": "wait-k", "k": 2, "l": 3, "lookahead": 1, "rate": 16000, "format": "pcm16",
    "drafts": True,
}  # fmt: skip
FIELDS = {
    "model": "tiny", "language": "en", "response_format": "verbose_json", "stream": "false", "temperature": "0",
    "timestamp_granularities[]": "segment",
}  # fmt: skip
MESSAGES = 40
"""Most messages that a client sends."""


class _Failures(logging.Handler):
    """Keeps the exceptions that the server could not answer."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


def messages(seeds: Seeds) -> Attempt:
    """Return the attempt of the target `server`."""
    from bestow_edge.runtime import load
    from bestow_edge.server.app import make_app
    from bestow_edge.server.guard import Access
    from bestow_edge.server.hub import Hub
    from bestow_edge.server.limits import Limits

    hub = Hub(load(seeds.bundle, threads=1), name="tiny", limits=Limits())
    app = make_app(hub, Access(host="127.0.0.1"))
    failures = _Failures()
    logging.getLogger("bestow_edge").addHandler(failures)
    audio = (sound(0.5) * 32767).astype("<i2").tobytes()
    wave = recordings()["a.wav"]

    def attempt(random: Random, _folder: Path) -> None:
        failures.found.clear()
        if random.random() < 0.3:
            sent = asyncio.run(_talk(app, *_upload(random, wave), limit_s=30))
        else:
            make = random.choice((_stream, _realtime))
            path, query, said = make(random, audio)
            sent = asyncio.run(_talk(app, _scope("websocket", path, query), said, limit_s=30))
        for message in sent:
            str(message.get("text") or "").encode()
            str(message.get("reason") or "").encode()
            assert message.get("status", 200) != 500, message
        if failures.found:
            record = failures.found[0]
            raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)
        if any(message.get("status", 0) >= 400 or message.get("code", 1000) > 1001 for message in sent):
            raise RefusedError("the server answered with a refusal", status=400, code=1007)

    return attempt


def _stream(random: Random, audio: bytes) -> tuple[str, bytes, list[dict[str, Any]]]:
    settings, query = changed_tree(random, SETTINGS), b""
    said: list[dict[str, Any]] = []
    if random.random() < 0.4 and isinstance(settings, dict):
        texts = {name: str(value).encode("utf-8", "replace") for name, value in settings.items()}
        query = urllib.parse.urlencode(texts, errors="replace").encode()
    else:
        said.append({"text": json.dumps(settings)})
    blocks = [audio if random.random() < 0.6 else changed_bytes(random, audio) for _ in range(random.randrange(4))]
    said += [{"bytes": block} for block in blocks]
    said.append({"text": json.dumps({"event": "end"} if random.random() < 0.7 else random.choice(HOSTILE))})
    return "/v1/stream", query, said


def _realtime(random: Random, audio: bytes) -> tuple[str, bytes, list[dict[str, Any]]]:
    wanted = {"model": "tiny", "language": "en"}
    heard = {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": wanted, "turn_detection": None}
    events: list[Any] = [
        {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}, "event_id": "a"},
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ]
    picked = [random.choice(events) for _ in range(random.randrange(1, 6))]
    said = []
    for event in picked:
        text = json.dumps(changed_tree(random, event) if random.random() < 0.5 else event)
        if random.random() < 0.05:
            text = changed_bytes(random, text.encode()).decode("utf-8", "replace")
        said.append({"text": text} if random.random() < 0.95 else {"bytes": text.encode()})
    return "/v1/realtime", random.choice((b"", b"model=tiny", b"model=%00", b"model=" + b"x" * 3000)), said


def _upload(random: Random, wave: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    fields = changed_tree(random, FIELDS) if random.random() < 0.7 else FIELDS
    fields = fields if isinstance(fields, dict) else {}
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode("utf-8", "replace")
        for name, value in fields.items()
    ]
    name = random.choice(("a.wav", "", "../a.wav", "\ud800.wav", "a.mp4")).encode("utf-8", "replace")
    content = wave if random.random() < 0.6 else changed_bytes(random, wave, head=64)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
    body = b"".join([*parts, head, content, b"\r\n--x--\r\n"])
    if random.random() < 0.3:
        body = changed_bytes(random, body, head=600)
    path = "/v1/audio/" + random.choice(("transcriptions", "translations"))
    kind = random.choice((b"multipart/form-data; boundary=x",) * 6 + (b"multipart/form-data", b"text/plain", b""))
    scope = _scope("http", path, b"") | {"method": "POST"}
    scope["headers"] += [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    return scope, [{"type": "http.request", "body": body, "more_body": False}]


def _scope(kind: str, path: str, query: bytes) -> dict[str, Any]:
    return {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": path,
        "raw_path": path.encode(), "query_string": query, "root_path": "", "subprotocols": [],
        "headers": [(b"host", b"127.0.0.1:8000")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        "state": {},
    }  # fmt: skip


async def _talk(app: Any, scope: dict[str, Any], said: list[dict[str, Any]], limit_s: float) -> list[dict[str, Any]]:
    """Return what the application sends to a client that says something and hangs up."""
    socket = scope["type"] == "websocket"
    waiting = [{"type": "websocket.receive", **message} if socket else message for message in said]
    if socket:
        waiting.insert(0, {"type": "websocket.connect"})
    sent: list[dict[str, Any]] = []
    closed = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        for _ in range(200):  # answers come
            if closed.is_set() or len(sent) > MESSAGES:
                break
            await asyncio.sleep(0.005)
        return {"type": f"{scope['type']}.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "websocket.close":
            closed.set()

    async with asyncio.timeout(limit_s):
        await app(scope, receive, send)
    return sent
