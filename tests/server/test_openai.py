"""The official client of OpenAI's API against a server in a process of its own."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from served import ENGLISH, GERMAN, TEXT_EN, Served, pcm16, pieces

openai = pytest.importorskip("openai")
# The client marks `translations` as deprecated, and opens WebSockets in a way that websockets 17 warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(server: Served) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def transcribe(client: Any, path: Path = ENGLISH, **options: Any) -> Any:
    with path.open("rb") as file:
        return client.audio.transcriptions.create(model="demo", file=file, **options)


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    assert client.models.retrieve("demo").pairs == ["en-en", "de-de", "en-de", "de-en"]
    with pytest.raises(openai.NotFoundError, match="this server has 'demo'"):
        client.models.retrieve("whisper-1")


def test_json_and_text(client: Any) -> None:
    answer = transcribe(client)
    assert answer.text == TEXT_EN
    assert answer.usage.seconds == pytest.approx(4.096, abs=0.01)
    assert transcribe(client, response_format="text").strip() == TEXT_EN


def test_the_language_of_the_speech(client: Any) -> None:
    answer = transcribe(client, GERMAN, language="de", response_format="verbose_json")
    assert answer.text == "fünf vier eins sieben neun"
    assert answer.language == "german"


def test_segments_and_words(client: Any) -> None:
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (answer.language, answer.duration) == ("english", pytest.approx(4.096, abs=0.01))
    assert [word.word for word in answer.words] == TEXT_EN.split()
    assert all(0 <= word.start <= word.end <= 4.2 for word in answer.words)
    (segment,) = answer.segments
    assert segment.text == TEXT_EN
    assert segment.start == answer.words[0].start
    assert -1 < segment.avg_logprob <= 0
    assert answer.segments != transcribe(client, response_format="verbose_json").words


def test_subtitles(client: Any) -> None:
    srt = transcribe(client, response_format="srt")
    assert srt.startswith("1\n00:00:00,")
    assert " --> 00:00:03,9" in srt
    assert TEXT_EN in srt
    assert transcribe(client, response_format="vtt").startswith("WEBVTT\n\n00:00:00.")


def test_server_sent_events(client: Any) -> None:
    *deltas, done = list(transcribe(client, stream=True))
    assert len(deltas) == 5
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert "".join(event.delta for event in deltas) == done.text == TEXT_EN
    assert done.type == "transcript.text.done"


def test_translations(client: Any) -> None:
    with GERMAN.open("rb") as file:
        assert client.audio.translations.create(model="demo", file=file).text == "five four one seven nine"
    with ENGLISH.open("rb") as file:
        options = {"language": "en", "target": "de"}
        assert client.audio.translations.create(model="demo", file=file, extra_body=options).text.startswith(
            "neun eins"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "fr"}, "was trained for"),
        ({"language": "xx"}, "language"),
        ({"response_format": "diarized_json"}, "response_format 'diarized_json'"),
        ({"response_format": "srt", "stream": True}, "needs the whole text"),
        ({"timestamp_granularities": ["word"]}, "only with response_format verbose_json"),
        ({"timestamp_granularities": ["letter"], "response_format": "verbose_json"}, "segment or word"),
        ({"temperature": 0.7}, "expected 0"),
        ({"prompt": "numbers"}, "'prompt': not a field"),
        ({"extra_body": {"target": "de"}}, "only for translations"),
        ({"extra_body": {"stream": "perhaps"}}, "true or false"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(client: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        transcribe(client, **options)


def test_another_model_is_not_found(client: Any) -> None:
    with ENGLISH.open("rb") as file, pytest.raises(openai.NotFoundError, match="start with --name whisper-1"):
        client.audio.transcriptions.create(model="whisper-1", file=file)


@pytest.mark.parametrize(("content", "message"), [(b"no audio" * 50, "cannot be read as audio"), (b"", "talk.wav")])
def test_a_file_that_is_no_audio_is_refused_by_its_name(client: Any, content: bytes, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.audio.transcriptions.create(model="demo", file=("/etc/../talk.wav", content))


def append(connection: Any, audio: bytes) -> None:
    for piece in pieces(audio, 4800):
        connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


def until(connection: Any, last: str) -> list[Any]:
    """Return the events up to the one of a type."""
    events = [connection.recv()]
    while events[-1].type != last:
        events.append(connection.recv())
    return events


DONE = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"
GERMAN_SESSION = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "transcription": {"model": "demo", "language": "de"},
            "turn_detection": None,
        }
    },
}


def test_realtime_writes_two_items_in_two_languages(client: Any) -> None:
    with client.realtime.connect(model="demo", extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().session.audio.input.format.rate == 24000
        append(connection, pcm16(rate_hz=24000))
        connection.input_audio_buffer.commit()
        events = until(connection, DONE)
        assert events[-1].transcript == TEXT_EN
        assert events[-1].usage.seconds == pytest.approx(4.096, abs=0.01)
        deltas = [event for event in events if event.type == DELTA]
        assert "".join(event.delta for event in deltas) == TEXT_EN
        kinds = [event.type for event in events]
        assert kinds.index(DELTA) < kinds.index("input_audio_buffer.committed")  # text comes while audio does
        assert len({event.item_id for event in events}) == 1

        connection.session.update(session=GERMAN_SESSION)
        append(connection, pcm16(GERMAN, 24000))
        connection.input_audio_buffer.commit()
        second = until(connection, DONE)
        assert second[0].session.audio.input.transcription.language == "de"
        assert second[-1].transcript == "fünf vier eins sieben neun"
        committed = next(event for event in second if event.type == "input_audio_buffer.committed")
        assert committed.previous_item_id == events[-1].item_id


def test_realtime_drops_what_is_cleared(client: Any) -> None:
    with client.realtime.connect(model="demo") as connection:
        append(connection, pcm16(GERMAN, 24000)[:48000])
        connection.input_audio_buffer.clear()
        append(connection, pcm16(rate_hz=24000))
        connection.input_audio_buffer.commit()
        events = until(connection, DONE)
        assert "input_audio_buffer.cleared" in [event.type for event in events]
        assert events[-1].transcript == TEXT_EN


def vad(**detection: Any) -> dict[str, Any]:
    """Return an update that asks for turn detection."""
    asked = {"turn_detection": {"type": "server_vad"} | detection}
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": asked}}}


STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
COMMITTED = "input_audio_buffer.committed"
SILENCE = bytes(2 * 24000 * 4)  # 4 s


def test_realtime_ends_an_item_at_a_pause(client: Any) -> None:
    with client.realtime.connect(model="demo") as connection:
        detection = {"threshold": None, "silence_duration_ms": 1500, "create_response": False}
        connection.session.update(session=vad(**detection)["session"])
        shown = until(connection, "session.updated")[-1].session.audio.input.turn_detection
        assert (shown.type, shown.silence_duration_ms, shown.prefix_padding_ms) == ("server_vad", 1500, 300)
        append(connection, SILENCE + pcm16(rate_hz=24000) + SILENCE)
        first = until(connection, DONE)
        append(connection, pcm16(rate_hz=24000) + SILENCE)
        second = until(connection, DONE)
    for events, begin_ms, end_ms, previous in ((first, 4000, 8096, None), (second, 12096, 16192, first[-1].item_id)):
        assert events[-1].transcript == TEXT_EN
        assert "".join(event.delta for event in events if event.type == DELTA) == TEXT_EN
        assert [event.type for event in events if event.type != DELTA] == [STARTED, STOPPED, COMMITTED, DONE]
        assert len({event.item_id for event in events}) == 1
        assert events[0].audio_start_ms == pytest.approx(begin_ms, abs=600)
        assert events[-3].audio_end_ms == pytest.approx(end_ms + 1500, abs=600)
        assert events[-2].previous_item_id == previous


def test_realtime_commits_within_a_turn_and_without_speech(client: Any) -> None:
    with client.realtime.connect(model="demo") as connection:
        connection.session.update(session=vad()["session"])
        append(connection, pcm16(rate_hz=24000))
        connection.input_audio_buffer.commit()
        assert until(connection, DONE)[-1].transcript == TEXT_EN
        append(connection, SILENCE[:48000])
        connection.input_audio_buffer.commit()
        events = until(connection, DONE)
        assert [event.type for event in events] == [COMMITTED, DONE]
        assert (events[-1].transcript, events[-1].usage.seconds) == ("", pytest.approx(1.0, abs=0.01))
        append(connection, pcm16(rate_hz=24000))
        connection.session.update(session=GERMAN_SESSION)  # ends the turn, and turn detection
        assert until(connection, DONE)[-1].transcript == TEXT_EN
        append(connection, pcm16(GERMAN, 24000))
        connection.input_audio_buffer.commit()
        assert until(connection, DONE)[-1].transcript == "fünf vier eins sieben neun"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"type": "response.create"}, "expected session.update"),
        ({"type": ["x"]}, "expected session.update"),
        ({"type": "input_audio_buffer.append", "audio": "~~~"}, "as base64"),
        ({"type": "input_audio_buffer.append", "audio": 5}, "as base64"),
        ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "whole samples"),
        ({"type": "input_audio_buffer.commit"}, "is empty"),
        ({"type": "session.update"}, "session: NoneType"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "expected transcription"),
        ({"type": "session.update", "session": {"audio": 5}}, "expected an object"),
        ({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}}, "24000"),
        (vad(type="semantic_vad"), "expected server_vad"),
        (vad(threshold=0.7), "turn_detection.threshold: cannot be had"),
        (vad(create_response=True), "create_response: cannot be had"),
        (vad(silence_duration_ms=100), "from 200"),
        (vad(silence_duration_ms="long"), "a whole number"),
        (vad(prefix_padding_ms=-1), "from 0"),
        ({"type": "session.update", "session": {"audio": {"input": {"turn_detection": "on"}}}}, "expected an object"),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"prompt": "x"}}}}}, "prompt"),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": 1}}}}}, "texts"),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "fr"}}}}}, "trained"),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "x"}}}}}, "has 'demo'"),
    ],
)
def test_realtime_answers_wrong_events_and_goes_on(client: Any, record: dict[str, Any], message: str) -> None:
    with client.realtime.connect(model="demo") as connection:
        connection.recv()
        connection.send(record | {"event_id": "mine"})
        error = connection.recv()
        assert error.type == "error"
        assert message in error.error.message
        append(connection, pcm16(rate_hz=24000)[:9600])
        connection.input_audio_buffer.commit()
        assert until(connection, DONE)[-1].transcript == ""


def test_realtime_refuses_another_model(client: Any) -> None:
    with client.realtime.connect(model="gpt-realtime-whisper") as connection:
        assert "this server has 'demo'" in connection.recv().error.message
