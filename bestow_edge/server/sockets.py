"""What all WebSocket streams share: messages in and out, limits of time, and how a stream ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.websockets import WebSocket, WebSocketDisconnect

from bestow_edge.core.errors import BestowEdgeError, RefusedError
from bestow_edge.core.json_text import parse_object
from bestow_edge.runtime.audio.files import blocks
from bestow_edge.server.hub import Hub
from bestow_edge.server.inbox import Inbox
from bestow_edge.server.problems import INTERNAL, INTERNAL_TEXT, as_refusal

OK, GOING_AWAY, WRONG_KIND, TOO_SLOW = 1000, 1012, 1003, 1008  # codes that close a WebSocket
MOST_REASON = 120  # bytes of a reason that a close frame holds
PIECE_S = 1.0  # of audio that is heard at once, so that sessions take turns
Samples = npt.NDArray[np.float32]
Record = dict[str, Any]  # Any: JSON

logger = logging.getLogger(__name__)


class GoneError(Exception):
    """The client went away."""


class Peer:
    """The client of a WebSocket."""

    def __init__(self, socket: WebSocket, idle_s: float) -> None:
        """Take a socket that was accepted; after some seconds without a message it is closed."""
        self._socket, self._idle_s = socket, idle_s
        self.computing: Callable[[], bool] = lambda: False
        """Whether the client waits for the server; then it need not send anything."""

    async def receive(self, timeout_s: float | None = None) -> str | bytes:
        """Wait for the next message.

        Raises:
            GoneError: the client went away.
            RefusedError: no message came in time.
        """
        timeout_s, message = timeout_s or self._idle_s, None
        while message is None:
            try:
                async with asyncio.timeout(timeout_s):
                    message = await self._socket.receive()
            except TimeoutError:
                if not self.computing():
                    raise RefusedError(f"no message for {timeout_s:g} s", status=408, code=TOO_SLOW) from None
        if message["type"] == "websocket.disconnect":
            raise GoneError
        text = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    async def send(self, record: Record) -> None:
        """Send JSON.

        Raises:
            GoneError: the client went away, or does not read.
        """
        try:
            await self._socket.send_text(json.dumps(record, ensure_ascii=False))
        except (WebSocketDisconnect, RuntimeError, OSError) as error:  # RuntimeError: after a close
            raise GoneError from error

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection; errors are those of `send`."""
        short = reason.encode()[:MOST_REASON].decode(errors="ignore")
        try:
            await self._socket.close(code, short)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise GoneError from error


def parse_message(text: str | bytes) -> Record:
    """Return the JSON object of a message.

    Raises:
        RefusedError: it is binary.
        ConfigError: it is none, see `core.json_text`.
    """
    if isinstance(text, bytes):
        raise RefusedError("got a binary message, expected JSON as text", status=400, code=WRONG_KIND)
    return parse_object(text, "message")


async def put_samples(inbox: Inbox[Samples | Any], samples: Samples, rate_hz: int) -> None:  # Any: marks beside audio
    """Put samples, (samples,) at a rate, into an inbox in pieces."""
    for piece in blocks(samples, round(PIECE_S * rate_hz)):
        await inbox.put(piece, len(piece) / rate_hz)


async def both(reading: Coroutine[Any, Any, None], writing: Coroutine[Any, Any, None]) -> None:  # Any: of no use
    """Run two tasks until one of them ends, end the other one, and raise the error of the first."""
    tasks = [asyncio.create_task(reading), asyncio.create_task(writing)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def talk(
    socket: WebSocket,
    hub: Hub,
    speak: Callable[[Peer], Awaitable[None]],
    error_record: Callable[[RefusedError], Record],
    subprotocol: str | None = None,
) -> None:
    """Accept a WebSocket, run a conversation, and close it with a code and a sentence if it fails.

    Args:
        socket: a fresh one.
        hub: counts failures.
        speak: the conversation.
        error_record: makes the last message before a refusal.
        subprotocol: to accept, of those that the client offers.
    """
    await socket.accept(subprotocol if subprotocol in socket.scope["subprotocols"] else None)
    peer = Peer(socket, hub.limits.idle_s)
    try:
        refusal = await _refusal(hub, speak(peer))
        if refusal is not None:
            await peer.send(error_record(refusal))
            await peer.close(refusal.code, str(refusal))
    except GoneError:
        hub.metrics.lost.inc()


async def _refusal(hub: Hub, conversation: Awaitable[None]) -> RefusedError | None:
    """Run a conversation and return how it was refused, None if it ended well."""
    try:
        await conversation
    except GoneError:
        raise
    except BestowEdgeError as error:
        refusal = as_refusal(error)
        if refusal is not None:
            hub.metrics.refusals.labels(str(refusal.status)).inc()
            return refusal
        logger.exception("a stream failed")
    except Exception:
        logger.exception("a stream failed")
    else:
        return None
    hub.metrics.errors.inc()
    return RefusedError(INTERNAL_TEXT, status=500, code=INTERNAL)
