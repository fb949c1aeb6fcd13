"""`/v1/audio/transcriptions` and `/v1/audio/translations`, as in OpenAI's API."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, cast, get_args

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import AudioError, BestowEdgeError, ConfigError, RefusedError
from bestow_edge.core.languages import LANGUAGES
from bestow_edge.core.prompts import AUTO, Task
from bestow_edge.core.request import Request, default_pair
from bestow_edge.runtime.audio.files import open_audio
from bestow_edge.runtime.records.subtitles import document
from bestow_edge.runtime.stream.events import Event, TextEvent
from bestow_edge.server.hub import Hub, PooledSession
from bestow_edge.server.problems import INTERNAL_TEXT, TOO_BIG, WRONG_DATA, as_refusal, problem
from bestow_edge.server.uploads import Upload, read_rest, uploaded
from bestow_edge.server.words import segments, words

Form = Literal["json", "text", "srt", "verbose_json", "vtt"]
GRANULARITIES = ("segment", "word")
FIELDS = ("model", "language", "target", "response_format", "stream", "timestamp_granularities[]", "temperature")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a client asks of a file."""

    request: Request
    task: Task
    form: Form
    granularities: tuple[str, ...]

    @property
    def source(self) -> str:
        """Language of the speech, or `auto`."""
        return (self.request.lang or "").partition("-")[0]


def parse_fields(fields: dict[str, tuple[str, ...]], task: Task, hub: Hub) -> Asked:
    """Check the fields of a form.

    Raises:
        ConfigError: a field is unknown or wrong.
        RefusedError: the server has another model.
    """
    if unknown := set(fields) - set(FIELDS) - {"timestamp_granularities"}:
        raise ConfigError(f"{min(unknown)!r}: not a field here; expected file, {', '.join(FIELDS)}")
    plain = {name: values[-1] for name, values in fields.items() if values}
    check_model(plain.get("model"), hub)
    form = plain.get("response_format", "json")
    if form not in get_args(Form):
        raise ConfigError(f"response_format {form!r}: expected {', '.join(get_args(Form))}")
    stream = plain.get("stream", "false").lower()
    if stream not in {"true", "false"}:
        raise ConfigError(f"stream {stream!r}: expected true or false")
    if stream == "true" and form not in {"json", "text"}:
        raise ConfigError(f"stream: response_format {form} needs the whole text; leave one of them out")
    if plain.get("temperature", "0") not in {"0", "0.0"}:
        raise ConfigError(f"temperature {plain['temperature']!r}: expected 0; the text is the most probable one")
    wanted = fields.get("timestamp_granularities[]", ()) + fields.get("timestamp_granularities", ())
    if wrong := set(wanted) - set(GRANULARITIES):
        raise ConfigError(f"timestamp_granularities {min(wrong)!r}: expected {' or '.join(GRANULARITIES)}")
    if wanted and form != "verbose_json":
        raise ConfigError("timestamp_granularities: only with response_format verbose_json")
    kind = hub.model.config.connector.kind
    if not CONNECTORS[kind].aligned and (form in {"srt", "vtt"} or "word" in wanted):
        raise ConfigError(f"a model with connector {kind} does not show when a word was spoken; ask for json or text")
    lang = _pair(task, plain.get("language"), plain.get("target"), hub.model.config)
    request = Request(lang=lang, stream=stream == "true")
    return Asked(request=request, task=task, form=cast(Form, form), granularities=wanted or ("segment",))


def check_model(name: str | None, hub: Hub) -> None:
    """Refuse another model than the one that is served.

    Raises:
        RefusedError: names it.
    """
    if name is not None and name != hub.name:
        message = f"model {name[:60]!r}: this server has {hub.name!r}; ask for it, or start with --name {name[:60]}"
        raise RefusedError(message, status=404, code=WRONG_DATA)


def spoken_language(config: ModelConfig) -> str:
    """Return the language of speech whose language nobody named: `auto` if the model detects it."""
    return default_pair(config).partition("-")[0]


def _pair(task: Task, language: str | None, target: str | None, config: ModelConfig) -> str:
    if task == "transcribe":
        if target is not None:
            raise ConfigError("target: only for translations; use /v1/audio/translations")
        language = language or spoken_language(config)
        return AUTO if language == AUTO else f"{language}-{language}"
    target = target or "en"
    if language is None:
        foreign = (pair.partition("-")[0] for pair in config.pairs if pair.endswith(f"-{target}"))
        language = AUTO if config.connector.detects else next((one for one in foreign if one != target), target)
    return f"{language}-{target}"


class FileRoute:
    """An endpoint for files."""

    def __init__(self, task: Task) -> None:
        """Take the task of the endpoint."""
        self._task: Task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        http = HttpRequest(scope, receive, send)
        hub: Hub = http.app.state.hub
        try:
            async with hub.place("file") as session, uploaded(http, hub.limits) as upload:
                asked = parse_fields(upload.fields, self._task, hub)
                await session.open(asked.request, hub.model.sample_rate_hz)
                batches = _hear(session, upload, hub)
                if asked.request.stream:
                    body = _server_sent(hub, batches, session)
                    response: Response = StreamingResponse(body, media_type="text/event-stream")
                else:
                    events = await _all(batches, http)
                    language = session.opened.language if asked.source == AUTO else asked.source
                    response = _answer(asked, events, session.audio_s, language)
                await response(scope, receive, send)
        except ClientDisconnect:
            hub.metrics.lost.inc()
        except RefusedError as error:
            if error.status == 503:
                await read_rest(http)
            raise


async def _all(batches: AsyncGenerator[list[Event]], http: HttpRequest) -> list[Event]:
    """Return all events of a file, unless the client goes away."""
    events: list[Event] = []
    async with aclosing(batches):
        async for batch in batches:
            events += batch
            if await http.is_disconnected():
                raise ClientDisconnect
    return events


async def _hear(session: PooledSession, upload: Upload, hub: Hub) -> AsyncGenerator[list[Event]]:
    """Yield the events of each block of a file."""
    most_s = hub.limits.file_s
    try:
        rate_hz = hub.model.sample_rate_hz
        with await session.run(lambda: open_audio(upload.path, rate_hz, name=upload.name)) as audio:
            blocks = iter(audio)
            while (events := await session.feed_next(blocks)) is not None:
                yield events
                if session.audio_s > most_s:
                    message = f"{upload.name}: longer than {most_s:g} s; send it in parts"
                    raise RefusedError(message, status=413, code=TOO_BIG)
            yield await session.finish()
    except AudioError as error:  # no client sees where its file lies
        raise AudioError(str(error).replace(str(upload.path), upload.name)) from error


def _text(events: list[Event]) -> str:
    return "".join(event.text for event in events).strip()


def _answer(asked: Asked, events: list[Event], audio_s: float, language: str | None) -> Response:
    """Return the answer in the form that was asked for."""
    if asked.form == "srt":
        return PlainTextResponse(document(events, 0, "srt"), media_type="application/x-subrip")
    if asked.form == "vtt":
        return PlainTextResponse(document(events, 0, "vtt"), media_type="text/vtt")
    if asked.form == "text":
        return PlainTextResponse(_text(events) + "\n")
    usage = {"type": "duration", "seconds": round(audio_s, 3)}
    if asked.form == "json":
        return JSONResponse({"text": _text(events), "usage": usage})
    record: dict[str, object] = {
        "task": asked.task,
        "language": LANGUAGES.get(language or "", "unknown").lower(),
        "duration": round(audio_s, 3),
        "text": _text(events),
        "usage": usage,
    }
    if "segment" in asked.granularities:
        record["segments"] = [_segment(number, one) for number, one in enumerate(segments(events))]
    if "word" in asked.granularities:
        spans = words(events)
        record["words"] = [
            {"word": one.text, "start": round(one.start_s, 3), "end": round(one.end_s, 3)} for one in spans
        ]
    return JSONResponse(record)


def _segment(number: int, events: list[TextEvent]) -> dict[str, object]:
    tokens = [token for event in events for token in event.token_ids]
    log_probs = [log_prob for event in events for log_prob in event.log_probs]
    return {
        "id": number,
        "start": round(min(event.start_s for event in events), 3),
        "end": round(max(event.end_s for event in events), 3),
        "text": "".join(event.text for event in events),
        "tokens": tokens,
        "avg_logprob": round(sum(log_probs) / max(1, len(log_probs)), 4),
    }


async def _server_sent(hub: Hub, batches: AsyncGenerator[list[Event]], session: PooledSession) -> AsyncGenerator[str]:
    """Yield server-sent events: a delta for each piece of text, and the whole text at the end."""
    text = ""
    try:
        async with aclosing(batches):
            async for batch in batches:
                for event in batch:
                    if delta := event.text if text else event.text.lstrip():
                        text += delta
                        yield _sent({"type": "transcript.text.delta", "delta": delta})
        usage = {"type": "duration", "seconds": round(session.audio_s, 3)}
        yield _sent({"type": "transcript.text.done", "text": text, "usage": usage})
    except BestowEdgeError as error:  # the answer has begun, so its status stays
        refusal = as_refusal(error)
        if refusal is None:
            hub.metrics.errors.inc()
            logger.exception("an upload failed")
        yield _sent(problem(str(refusal or INTERNAL_TEXT), refusal.status if refusal else 500))


def _sent(record: Mapping[str, object]) -> str:
    return f"data: {json.dumps(record, ensure_ascii=False)}\n\n"
