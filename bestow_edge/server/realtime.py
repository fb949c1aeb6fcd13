"""`/v1/realtime`: transcription sessions of OpenAI's realtime API, one text for each committed piece of audio.

Audio is heard while it comes: text of an item is sent before the item is committed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket

from bestow_edge.core.errors import BestowEdgeError, ConfigError, RefusedError
from bestow_edge.core.prompts import AUTO, check_trained, parse_pair
from bestow_edge.core.request import Request
from bestow_edge.runtime.stream.events import Event
from bestow_edge.server.hub import Hub, PooledSession
from bestow_edge.server.inbox import Inbox
from bestow_edge.server.problems import as_refusal, problem
from bestow_edge.server.settings import samples_of
from bestow_edge.server.sockets import GOING_AWAY, Peer, Record, Samples, both, parse_json, put_samples, talk
from bestow_edge.server.transcriptions import check_model, spoken_language

PROTOCOL = "realtime"
RATE_HZ = 24000
TEXT = "conversation.item.input_audio_transcription"


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of an item."""


@dataclass(frozen=True, slots=True)
class Clear:
    """The item so far is dropped."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that waits for its turn behind the audio before it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Language:
    """Language of the items from here on."""

    code: str


Item = Samples | Commit | Clear | Reply | Language


async def realtime(socket: WebSocket) -> None:
    """Serve a transcription session."""
    hub: Hub = socket.app.state.hub

    async def speak(peer: Peer) -> None:
        async with hub.place("stream") as session:
            check_model(socket.query_params.get("model"), hub)
            conversation = _Conversation(hub, peer, session)
            peer.computing = lambda: session.working or conversation.inbox.waiting_s > 0
            await peer.send(conversation.record("session.created", session=conversation.session_record()))
            with hub.ended_by_stop(conversation.inbox.end):
                await both(conversation.read(), conversation.write())

    await talk(socket, hub, speak, _error, PROTOCOL)


def _error(refusal: RefusedError, event_id: object = None) -> Record:
    error = problem(str(refusal), refusal.status)["error"] | {"event_id": event_id}
    return {"type": "error", "event_id": _new_id("event"), "error": error}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex[:24]}"


class _Conversation:
    """One connection."""

    def __init__(self, hub: Hub, peer: Peer, session: PooledSession) -> None:
        self.inbox = Inbox[Item](hub.limits.waiting_s)
        self._hub, self._peer, self._session = hub, peer, session
        self._id = _new_id("sess")
        self._language = spoken_language(hub.model.config)  # as the reader knows it, behind all that it has put in
        self._item: str | None = None
        self._previous: str | None = None
        self._text = ""
        self._answers: dict[str, Callable[[Record], Any]] = {  # Any: coroutines
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    def record(self, kind: str, **fields: object) -> Record:
        """Return an event for the client."""
        return {"type": kind, "event_id": _new_id("event"), **fields}

    def session_record(self) -> Record:
        """Return the session as the client may see it."""
        heard = {
            "format": {"type": "audio/pcm", "rate": RATE_HZ},
            "transcription": {"model": self._hub.name, "language": self._language},
            "turn_detection": None,
            "noise_reduction": None,
        }
        named = {"id": self._id, "object": "realtime.transcription_session", "type": "transcription"}
        return named | {"audio": {"input": heard}}

    async def read(self) -> None:
        """Read messages until the client goes away; a wrong one is answered with an error and the session goes on."""
        while True:
            message = await self._peer.receive()
            event_id = None
            try:
                record = parse_json(message)
                event_id = record.get("event_id")
                kind = record.get("type")
                if not isinstance(kind, str) or kind not in self._answers:
                    raise ConfigError(f"type {kind!r:.60}: expected {', '.join(self._answers)}")
                await self._answers[kind](record)
            except BestowEdgeError as error:
                refusal = as_refusal(error)
                if refusal is None:
                    raise
                await self.inbox.put(Reply(_error(refusal, event_id)))

    async def _update(self, record: Record) -> None:
        language, config = parse_session(record.get("session"), self._hub) or self._language, self._hub.model.config
        check_trained(parse_pair(pair_of(language), auto=True), config.pairs, config.connector.detects)
        self._language = language
        await self.inbox.put(Language(language))
        await self.inbox.put(Reply(self.record("session.updated", session=self.session_record())))

    async def _append(self, record: Record) -> None:
        audio = record.get("audio")
        if not isinstance(audio, str):
            raise ConfigError(f"audio: {type(audio).__name__}, expected pcm16 at {RATE_HZ} Hz as base64")
        try:
            samples = samples_of(base64.b64decode(audio, validate=True), "pcm16")
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"audio: {error}; expected pcm16 at {RATE_HZ} Hz as base64") from error
        await put_samples(self.inbox, samples, RATE_HZ)

    async def _commit(self, _: Record) -> None:
        await self.inbox.put(Commit())

    async def _clear(self, _: Record) -> None:
        await self.inbox.put(Clear())

    async def write(self) -> None:
        """Hear what comes and send its text, until the server stops."""
        language = self._language
        while (arrived := await self.inbox.get()) is not None:
            item = arrived.item
            if isinstance(item, Reply):
                await self._peer.send(item.record)
            elif isinstance(item, Language):
                language = item.code
            elif isinstance(item, Clear):
                self._item, self._text = None, ""
                await self._peer.send(self.record("input_audio_buffer.cleared"))
            elif isinstance(item, Commit):
                await self._complete()
            else:
                if self._item is None:
                    await self._session.open(Request(lang=pair_of(language)), RATE_HZ)
                    self._item = _new_id("item")
                await self._send(await self._session.feed(item))
                self._hub.metrics.lag_s.observe(arrived.lag_s)
        if self._item is not None:
            await self._complete()
        await self._peer.close(GOING_AWAY, "the server stops")

    async def _complete(self) -> None:
        """End the item: the rest of its text, then all of it."""
        if self._item is None:
            refusal = RefusedError("input_audio_buffer is empty; append audio before a commit", status=400, code=1007)
            await self._peer.send(_error(refusal))
            return
        events = await self._session.finish()
        place = {"item_id": self._item, "previous_item_id": self._previous}
        await self._peer.send(self.record("input_audio_buffer.committed", **place))
        await self._send(events)
        usage = {"type": "duration", "seconds": round(self._session.audio_s, 3)}
        text = {"item_id": self._item, "content_index": 0, "transcript": self._text, "usage": usage}
        await self._peer.send(self.record(f"{TEXT}.completed", **text))
        self._previous, self._item, self._text = self._item, None, ""

    async def _send(self, events: list[Event]) -> None:
        for event in events:
            if delta := event.text if self._text else event.text.lstrip():
                self._text += delta
                await self._peer.send(self.record(f"{TEXT}.delta", item_id=self._item, content_index=0, delta=delta))


def pair_of(language: str) -> str:
    """Return the pair that transcribes a language."""
    return AUTO if language == AUTO else f"{language}-{language}"


def parse_session(session: object, hub: Hub) -> str | None:
    """Check the settings of a `session.update` and return the language, None if it names none.

    Raises:
        ConfigError: a setting is wrong, or cannot be had here.
        RefusedError: the server has another model.
    """
    session = _dict("session", session)
    if session.get("type", "transcription") != "transcription":
        raise ConfigError(f"session.type {session['type']!r:.40}: expected transcription")
    heard = _dict("session.audio.input", _dict("session.audio", session.get("audio", {})).get("input", {}))
    sound = _dict("session.audio.input.format", heard.get("format", {}))
    if (sound.get("type", "audio/pcm"), sound.get("rate", RATE_HZ)) != ("audio/pcm", RATE_HZ):
        raise ConfigError(f"session.audio.input.format {sound!r:.80}: expected audio/pcm at {RATE_HZ}")
    for name in ("turn_detection", "noise_reduction"):
        if heard.get(name) is not None:
            raise ConfigError(f"session.audio.input.{name}: expected null; commit the audio yourself")
    wanted = _dict("session.audio.input.transcription", heard.get("transcription") or {})
    if unknown := set(wanted) - {"model", "language"}:
        raise ConfigError(f"session.audio.input.transcription.{min(unknown)}: cannot be had here; leave it out")
    model, language = wanted.get("model"), wanted.get("language")
    if not isinstance(model, str | None) or not isinstance(language, str | None):
        raise ConfigError("session.audio.input.transcription: expected texts as model and language")
    check_model(model, hub)
    return language


def _dict(name: str, value: object) -> dict[str, Any]:  # Any: JSON
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {type(value).__name__}, expected an object")
    return value
