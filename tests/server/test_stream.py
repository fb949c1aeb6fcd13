"""`/v1/stream` on a server of its own process: text, settings, wrong messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from served import ENGLISH, GERMAN, TEXT_DE, TEXT_EN, Served, floats, pcm16, pieces

import bestow_edge as be

sync = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed  # noqa: E402 - behind the check that it is installed

END = json.dumps({"event": "end"})


def collect(socket: Any) -> list[dict[str, Any]]:
    """Return all events up to the close."""
    events = []
    try:
        while True:
            events.append(json.loads(socket.recv(timeout=60)))
    except ConnectionClosed:
        return events


def texts(events: list[dict[str, Any]]) -> dict[str, str]:
    """Return the text of each pair."""
    written: dict[str, str] = {}
    for event in events:
        if event["event"] == "text":
            written[event["lang"]] = written.get(event["lang"], "") + event["text"]
    return written


def hear(
    server: Served, messages: list[bytes | str], query: str = "", **settings: object
) -> tuple[list[dict[str, Any]], int]:
    """Return the events of a stream, and the code that closed it."""
    with sync.connect(f"{server.ws}/v1/stream{query}") as socket:
        try:
            if not query:
                socket.send(json.dumps(settings))
            for message in messages:
                socket.send(message)
        except ConnectionClosed:  # refused before all was sent
            pass
        return collect(socket), socket.protocol.close_code


def test_two_texts_of_one_stream_equal_those_of_sessions_of_their_own(server: Served) -> None:
    events, code = hear(server, [*pieces(pcm16()), END], lang="en-en,en-de")
    assert code == 1000
    assert texts(events) == {"en-en": TEXT_EN, "en-de": TEXT_DE}
    assert events[0]["pairs"] == ["en-en", "en-de"]
    assert events[-1] == {"event": "end", "audio_s": pytest.approx(4.096, abs=0.01)}
    of_text = [event for event in events if event["event"] == "text"]
    assert all(0 <= event["start_s"] <= event["end_s"] <= 4.2 and event["lag_s"] >= 0 for event in of_text)
    assert {event["event"] for event in events} >= {"segment-start", "segment-end", "progress"}


@pytest.mark.parametrize("size", [2, 2560, 96000])
def test_the_size_of_messages_does_not_change_the_text(server: Served, size: int) -> None:
    audio = pcm16()[: 1200 if size == 2 else None]
    events, code = hear(server, [*pieces(audio, size), END], lang="en-en")
    assert code == 1000
    assert texts(events) == ({} if size == 2 else {"en-en": TEXT_EN})


def test_a_query_with_float32_and_another_rate_and_delay(server: Served) -> None:
    audio = be.read_audio(ENGLISH, 48000).tobytes()
    query = "?lang=en-de&format=float32&rate=48000&latency=1.5s"
    events, code = hear(server, [*pieces(audio, 15360), END], query)
    assert (code, texts(events)) == (1000, {"en-de": TEXT_DE})
    assert events[0]["lookahead"] == 6
    assert events[0]["rate"] == 48000


def test_drafts_are_the_text_that_would_follow(server: Served) -> None:
    with sync.connect(f"{server.ws}/v1/stream") as socket:
        socket.send(json.dumps({"lang": "en-en", "policy": "offline", "drafts": True}))
        drafts = []
        for block in pieces(pcm16(), 32000)[:4]:
            socket.send(block)
            while (event := json.loads(socket.recv(timeout=30)))["event"] != "draft":
                pass
            drafts.append(event["texts"]["en-en"])
        assert drafts[-1].startswith("nine one five")
        assert drafts[-1] != drafts[0]
        socket.send(pieces(pcm16(), 32000)[4])
        socket.send(END)
        assert texts(collect(socket)) == {"en-en": TEXT_EN}


def test_streams_at_once_have_texts_of_their_own(server: Served) -> None:
    with (
        sync.connect(f"{server.ws}/v1/stream?lang=en-en") as one,
        sync.connect(f"{server.ws}/v1/stream?lang=de-en&format=float32") as other,
    ):
        for left, right in zip(pieces(pcm16()), pieces(floats(GERMAN), 5120), strict=False):
            one.send(left)
            other.send(right)
        one.send(END)
        other.send(END)
        assert texts(collect(one)) == {"en-en": TEXT_EN}
        assert texts(collect(other))["de-en"].startswith("five four one seven")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lang": "en-xx"}, "expected SOURCE-TARGET"),
        ({"lang": "en-fr"}, "was trained for"),
        ({"lang": 5}, "expected a text"),
        ({"lang": "en-en,en-de,en-fr,en-es,en-it"}, "at most 4"),
        ({"rate": 1}, "expected 8000 to 192000"),
        ({"rate": "much"}, "whole number"),
        ({"rate": 10**20 - 1}, "expected 8000"),
        ({"rate": 10**40}, "41 digits"),
        ({"format": "mp3"}, "expected pcm16 or float32"),
        ({"policy": "magic"}, "expected wait-k or offline"),
        ({"k": True}, "whole number"),
        ({"k": -1}, "whole number"),
        ({"k": 0}, "k"),
        ({"latency": "soon"}, "expected seconds"),
        ({"latency": "1.5s", "k": 3}, "latency chooses"),
        ({"drafts": "perhaps"}, "true or false"),
        ({"drafts": []}, "true or false"),
        ({"wish": 1}, "no such setting"),
    ],
)
def test_wrong_settings_close_the_stream_with_a_sentence(
    server: Served, settings: dict[str, Any], message: str
) -> None:
    events, code = hear(server, [], **settings)
    assert code == 1007
    assert events[0]["event"] == "error"
    assert message in events[0]["message"]


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        (b"\x00", 1007, "whole samples"),
        ("{", 1007, "not valid JSON"),
        ("[" * 100_000, 1007, "not valid JSON"),
        ('"\\ud800"', 1007, "not valid JSON"),
        ("7", 1007, "expected a JSON object"),
        ('{"event": "begin"}', 1007, "expected audio"),
    ],
)
def test_wrong_messages_close_the_stream_with_a_sentence(
    server: Served, sent: bytes | str, code: int, message: str
) -> None:
    events, closed = hear(server, [sent], lang="en-en")
    assert closed == code
    assert events[-1]["code"] == code
    assert message in events[-1]["message"]


def test_samples_that_are_no_audio_close_the_stream(server: Served) -> None:
    events, code = hear(server, [b"\x00\x00\xc0\x7f" * 800], lang="en-en", format="float32")
    assert (code, events[-1]["event"]) == (1007, "error")
    assert "NaN" in events[-1]["message"]


def test_audio_before_the_settings_is_refused(server: Served) -> None:
    with sync.connect(f"{server.ws}/v1/stream") as socket:
        socket.send(b"\x00\x00")
        assert "expected JSON" in collect(socket)[0]["message"]
        assert socket.protocol.close_code == 1003


def test_a_message_behind_the_end_is_refused_or_too_late(server: Served) -> None:
    events, code = hear(server, [*pieces(pcm16(), 32000), END, b"\x00\x00"], lang="en-en", policy="offline")
    assert code in {1000, 1007}
    assert events[-1]["event"] in {"end", "error"}


def test_a_stream_without_audio_has_no_text(server: Served) -> None:
    events, code = hear(server, [END], lang="en-en")
    assert code == 1000
    assert [event["event"] for event in events] == ["started", "end"]
