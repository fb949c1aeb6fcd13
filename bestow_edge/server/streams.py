"""`/v1/stream`: audio in as binary messages, events out as JSON, one WebSocket for each stream."""

from __future__ import annotations

from starlette.websockets import WebSocket

from bestow_edge.core.errors import RefusedError
from bestow_edge.core.prompts import AUTO
from bestow_edge.core.request import describe_policy
from bestow_edge.runtime.stream.events import Event
from bestow_edge.runtime.stream.session import Session
from bestow_edge.server.hub import Hub, PooledSession
from bestow_edge.server.inbox import Inbox
from bestow_edge.server.problems import WRONG_DATA
from bestow_edge.server.settings import StreamSettings
from bestow_edge.server.sockets import (
    GOING_AWAY,
    OK,
    Peer,
    Record,
    Samples,
    both,
    parse_message,
    put_samples,
    talk,
)

PROGRESS_S = 0.4  # of audio between two messages about progress
PROTOCOL = "bestow-edge"
"""Subprotocol that a browser offers beside the one with its token."""


async def stream(socket: WebSocket) -> None:
    """Serve a stream."""
    hub: Hub = socket.app.state.hub
    await talk(socket, hub, lambda peer: _serve(socket, hub, peer), _error, PROTOCOL)


def _error(refusal: RefusedError) -> Record:
    return {"event": "error", "message": str(refusal), "code": refusal.code}


async def _serve(socket: WebSocket, hub: Hub, peer: Peer) -> None:
    async with hub.place("stream") as session:
        query = socket.query_params
        values = dict(query) if query else parse_message(await peer.receive(hub.limits.header_s))
        settings = StreamSettings.parse(values, hub.limits.pairs)
        await session.open(settings.request, settings.rate_hz)
        await peer.send(_started(hub, session.opened, settings))
        inbox = Inbox[Samples](hub.limits.waiting_s)
        peer.computing = lambda: session.working or inbox.waiting_s > 0
        with hub.ended_by_stop(inbox.end):
            await both(_read(peer, inbox, settings), _Writer(hub, peer, session, settings).run(inbox))


def _started(hub: Hub, opened: Session, settings: StreamSettings) -> Record:
    """Return the first message: how the stream is heard."""
    return {
        "event": "started",
        "model": hub.name,
        "pairs": [str(prompt.asked) for prompt in opened.prompts],
        "policy": [repr(prompt.policy) for prompt in opened.prompts],
        "default_policy": describe_policy(hub.model.config.policy),
        "lookahead": opened.lookahead,
        "rate": settings.rate_hz,
        "format": settings.sample_format,
    }


async def _read(peer: Peer, inbox: Inbox[Samples], settings: StreamSettings) -> None:
    """Read messages until the client goes away; after `end` none may come."""
    ended = False
    while True:
        message = await peer.receive()
        if ended:
            raise RefusedError("a message came after end; open a new stream", status=400, code=WRONG_DATA)
        if isinstance(message, bytes):
            await put_samples(inbox, settings.samples(message), settings.rate_hz)
        elif parse_message(message) == {"event": "end"}:
            ended = True
            inbox.end()
        else:
            expected = 'audio in binary messages, or {"event": "end"}'
            raise RefusedError(f"message {message[:60]!r}: expected {expected}", status=400, code=WRONG_DATA)


class _Writer:
    """Hears what comes and sends its text."""

    def __init__(self, hub: Hub, peer: Peer, session: PooledSession, settings: StreamSettings) -> None:
        self._hub, self._peer, self._session, self._settings = hub, peer, session, settings
        self._names = [str(prompt.asked) for prompt in session.opened.prompts]
        self._reported_s = 0.0
        self._detecting = session.opened.prompts[0].asked.source == AUTO

    async def run(self, inbox: Inbox[Samples]) -> None:
        """Write until the audio ends."""
        while (arrived := await inbox.get()) is not None:
            events = await self._session.feed(arrived.item)
            self._hub.metrics.lag_s.observe(arrived.lag_s)
            await self._send(events, arrived.lag_s)
            if self._session.audio_s >= self._reported_s + PROGRESS_S:
                await self._report(inbox.waiting_s, arrived.lag_s)
        await self._send(await self._session.finish(), 0.0)
        await self._peer.send({"event": "end", "audio_s": round(self._session.audio_s, 3)})
        if self._hub.stopping:
            await self._peer.close(GOING_AWAY, "the server stops")
        else:
            await self._peer.close(OK)

    async def _send(self, events: list[Event], lag_s: float) -> None:
        if self._detecting and (language := self._session.opened.language) is not None:
            self._detecting = False
            await self._peer.send({"event": "language", "language": language})
        for event in events:
            record = event.to_dict()
            if event.text:
                record |= {"lang": self._names[getattr(event, "prompt", 0)], "lag_s": round(lag_s, 3)}
            await self._peer.send(record)

    async def _report(self, waiting_s: float, lag_s: float) -> None:
        """Send progress and, while the machine keeps up, drafts."""
        self._reported_s = self._session.audio_s
        progress = {"audio_s": self._session.audio_s, "waiting_s": waiting_s, "lag_s": lag_s}
        await self._peer.send({"event": "progress", **{name: round(value, 3) for name, value in progress.items()}})
        if self._settings.drafts and waiting_s == 0:
            texts = await self._session.drafts()
            await self._peer.send({"event": "draft", "texts": dict(zip(self._names, texts, strict=True))})
