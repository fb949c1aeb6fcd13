"""`/v1/realtime`: transcription sessions of OpenAI's realtime API, one text for each item.

An item is the audio that the client commits or, with turn detection, speech up to a pause. Audio is heard while it
comes: text of an item is sent before the item is committed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket

from bestow_edge.core.errors import BestowEdgeError, ConfigError, RefusedError
from bestow_edge.core.prompts import AUTO, check_trained, parse_pair
from bestow_edge.core.request import Request
from bestow_edge.runtime.stream.events import Event, TextEvent
from bestow_edge.server.hub import Hub, PooledSession
from bestow_edge.server.inbox import Inbox
from bestow_edge.server.problems import as_refusal, problem
from bestow_edge.server.settings import samples_of
from bestow_edge.server.sockets import GOING_AWAY, Peer, Record, Samples, both, parse_message, put_samples, talk
from bestow_edge.server.transcriptions import check_model, spoken_language
from bestow_edge.server.turns import TurnDetection

PROTOCOL = "realtime"
RATE_HZ = 24000
LOOK_S = 0.4  # of audio between two drafts in a pause
PATIENCE_MS = 5000  # most time that a draft delays the end of a turn
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
class Settings:
    """How audio is heard from here on."""

    language: str
    turns: TurnDetection | None = None
    """None: the client commits."""


Item = Samples | Commit | Clear | Reply | Settings


async def realtime(socket: WebSocket) -> None:
    """Serve a transcription session."""
    hub: Hub = socket.app.state.hub

    async def speak(peer: Peer) -> None:
        async with hub.place("stream") as session:
            check_model(socket.query_params.get("model"), hub)
            conversation = _Conversation(hub, peer, session)
            inbox = conversation.inbox  # not `conversation`, which refers to the peer
            peer.computing = lambda: session.working or inbox.waiting_s > 0
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
        self._asked = Settings(spoken_language(hub.model.config))  # as the reader knows it, behind all it has put in
        self._heard = self._asked  # of the open session
        self._open = False
        self._before_s = self._counted_s = 0.0  # audio of the sessions before; audio of this one in complete items
        self._word_end_s = self._looked_s = 0.0  # in the session: end of its last word, last look for more of them
        self._item: str | None = None
        self._previous: str | None = None
        self._text = ""

    def record(self, kind: str, **fields: object) -> Record:
        """Return an event for the client."""
        return {"type": kind, "event_id": _new_id("event"), **fields}

    def session_record(self) -> Record:
        """Return the session as the client may see it."""
        turns = self._asked.turns
        heard = {
            "format": {"type": "audio/pcm", "rate": RATE_HZ},
            "transcription": {"model": self._hub.name, "language": self._asked.language},
            "turn_detection": None if turns is None else turns.to_dict(),
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
                record = parse_message(message)
                event_id = record.get("event_id")
                kind = record.get("type")
                if not isinstance(kind, str) or kind not in ANSWERS:
                    raise ConfigError(f"type {kind!r:.60}: expected {', '.join(ANSWERS)}")
                await ANSWERS[kind](self, record)
            except BestowEdgeError as error:
                refusal = as_refusal(error)
                if refusal is None:
                    raise
                await self.inbox.put(Reply(_error(refusal, event_id)))

    async def _update(self, record: Record) -> None:
        asked, config = parse_session(record.get("session"), self._hub, self._asked), self._hub.model.config
        check_trained(parse_pair(pair_of(asked.language), auto=True), config.pairs, config.connector.detects)
        self._asked = asked
        await self.inbox.put(asked)
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
        settings = self._asked
        while (arrived := await self.inbox.get()) is not None:
            item = arrived.item
            if isinstance(item, Reply):
                await self._peer.send(item.record)
            elif isinstance(item, Settings):
                if self._open and self._heard.turns is not None and item != self._heard:
                    await self._finish()
                settings = item
            elif isinstance(item, Clear):
                self._close_session()
                await self._peer.send(self.record("input_audio_buffer.cleared"))
            elif isinstance(item, Commit):
                await self._commit_audio()
            else:
                await self._hear(item, settings)
                self._hub.metrics.lag_s.observe(arrived.lag_s)
        if self._open:
            await self._finish()
        await self._peer.close(GOING_AWAY, "the server stops")

    async def _hear(self, samples: Samples, settings: Settings) -> None:
        if not self._open:
            await self._session.open(Request(lang=pair_of(settings.language)), RATE_HZ)
            self._open, self._heard, self._word_end_s, self._looked_s = True, settings, 0.0, 0.0
            self._item = _new_id("item") if settings.turns is None else None
        await self._send(await self._session.feed(samples))
        if self._heard.turns is not None and self._item is not None:
            await self._wait_for_silence(self._heard.turns, self._session.opened.heard_s)

    async def _commit_audio(self) -> None:
        """End the item that is open; with turn detection, audio without speech becomes an item too."""
        if not self._open:
            refusal = RefusedError("input_audio_buffer is empty; append audio before a commit", status=400, code=1007)
            await self._peer.send(_error(refusal))
            return
        previous = self._previous
        await self._finish()
        if self._previous == previous:
            self._item = _new_id("item")
            await self._complete([])

    async def _finish(self) -> None:
        """End the session: the rest of its text, and the item that is open."""
        events = await self._session.finish()
        if self._heard.turns is None:
            await self._complete(events)
        else:
            await self._send(events)
            if self._item is not None:
                await self._end_turn(self._heard.turns)
        self._close_session()

    def _close_session(self) -> None:
        self._before_s += self._session.audio_s if self._open else 0.0
        self._open, self._item, self._text, self._counted_s = False, None, "", 0.0

    async def _complete(self, events: list[Event]) -> None:
        """End the item: the rest of its text, then all of it."""
        place = {"item_id": self._item, "previous_item_id": self._previous}
        await self._peer.send(self.record("input_audio_buffer.committed", **place))
        await self._send(events)
        usage = {"type": "duration", "seconds": round(self._session.audio_s - self._counted_s, 3)}
        text = {"item_id": self._item, "content_index": 0, "transcript": self._text, "usage": usage}
        await self._peer.send(self.record(f"{TEXT}.completed", **text))
        self._counted_s = self._session.audio_s
        self._previous, self._item, self._text = self._item, None, ""

    async def _send(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TextEvent):
                if self._heard.turns is not None:
                    await self._begin_turn(event, self._heard.turns)
                delta = event.text if self._text else event.text.lstrip()
                self._text += delta
                await self._peer.send(self.record(f"{TEXT}.delta", item_id=self._item, content_index=0, delta=delta))

    async def _begin_turn(self, event: TextEvent, turns: TurnDetection) -> None:
        """Begin an item with the first word behind a pause."""
        if self._item is not None and 1000 * (event.start_s - self._word_end_s) >= turns.silence_ms:
            await self._end_turn(turns)
        if self._item is None:
            self._item = _new_id("item")
            times = {"audio_start_ms": max(0, self._ms(event.start_s) - turns.prefix_ms)}
            await self._peer.send(self.record("input_audio_buffer.speech_started", item_id=self._item, **times))
        self._word_end_s = max(self._word_end_s, event.end_s)

    async def _wait_for_silence(self, turns: TurnDetection, heard_s: float) -> None:
        """End the item if no word was spoken for a while. Text comes behind its words, so a draft is asked first."""
        quiet_ms = 1000 * (heard_s - self._word_end_s)
        if quiet_ms < turns.silence_ms or heard_s < self._looked_s + LOOK_S:
            return
        self._looked_s = heard_s
        if quiet_ms >= turns.silence_ms + PATIENCE_MS or not any(await self._session.drafts()):
            await self._end_turn(turns)

    async def _end_turn(self, turns: TurnDetection) -> None:
        end_ms = min(self._ms(self._word_end_s) + turns.silence_ms, self._ms(self._session.audio_s))
        times = {"audio_end_ms": end_ms}
        await self._peer.send(self.record("input_audio_buffer.speech_stopped", item_id=self._item, **times))
        await self._complete([])

    def _ms(self, session_s: float) -> int:
        """Return a time in the audio of the connection."""
        return round(1000 * (self._before_s + session_s))


ANSWERS: dict[str, Callable[[_Conversation, Record], Awaitable[None]]] = {
    "session.update": _Conversation._update,
    "input_audio_buffer.append": _Conversation._append,
    "input_audio_buffer.commit": _Conversation._commit,
    "input_audio_buffer.clear": _Conversation._clear,
}


def pair_of(language: str) -> str:
    """Return the pair that transcribes a language."""
    return AUTO if language == AUTO else f"{language}-{language}"


def parse_session(session: object, hub: Hub, now: Settings) -> Settings:
    """Check the settings of a `session.update` and return them; what it does not name stays as it is now.

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
    if heard.get("noise_reduction") is not None:
        raise ConfigError("session.audio.input.noise_reduction: expected null; there is none here")
    turns = (
        None
        if (detection := heard.get("turn_detection")) is None
        else TurnDetection.parse(_dict("session.audio.input.turn_detection", detection), hub.model.config)
    )
    wanted = _dict("session.audio.input.transcription", heard.get("transcription") or {})
    if unknown := set(wanted) - {"model", "language"}:
        raise ConfigError(f"session.audio.input.transcription.{min(unknown)}: cannot be had here; leave it out")
    model, language = wanted.get("model"), wanted.get("language")
    if not isinstance(model, str | None) or not isinstance(language, str | None):
        raise ConfigError("session.audio.input.transcription: expected texts as model and language")
    check_model(model, hub)
    return Settings(language or now.language, turns if "turn_detection" in heard else now.turns)


def _dict(name: str, value: object) -> dict[str, Any]:  # Any: JSON
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {type(value).__name__}, expected an object")
    return value
