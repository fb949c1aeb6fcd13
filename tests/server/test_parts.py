"""Parts of the server by themselves: settings, access, limits, the inbox, words and subtitles."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

for package in ("starlette", "prometheus_client"):
    pytest.importorskip(package)

from bestow_edge.core.errors import ConfigError, RefusedError  # noqa: E402 - behind the check that the extra is installed
from bestow_edge.runtime.stream.events import SegmentEvent, TextEvent  # noqa: E402 - the same
from bestow_edge.server.guard import Access  # noqa: E402 - the same
from bestow_edge.server.inbox import Inbox  # noqa: E402 - the same
from bestow_edge.server.limits import Limits  # noqa: E402 - the same
from bestow_edge.server.settings import StreamSettings, samples_of  # noqa: E402 - the same
from bestow_edge.server.sockets import Peer  # noqa: E402 - the same
from bestow_edge.server.words import segments, words  # noqa: E402 - the same

TOKEN = "0123456789abcdef"  # noqa: S105 - of these tests


def said(text: str, start_s: float, end_s: float, segment: int = 0) -> TextEvent:
    return TextEvent(text, (1,), (-0.1,), start_s, end_s, end_s, segment)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com", ""])  # noqa: S104 - refused
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="give a token"):
        Access(host=host)
    assert Access(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert Access(host=host).token is None


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle", "ümläüt-ümläüt-ümläüt", "a" * 15])
def test_a_token_is_long_and_fits_into_headers(token: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        Access(host="127.0.0.1", token=token)


@pytest.mark.parametrize("origin", ["example.com", "https://example.com/", "https://", "ftp://x", "*", "null"])
def test_an_origin_is_scheme_and_host(origin: str) -> None:
    with pytest.raises(ConfigError, match="without a path"):
        Access(host="127.0.0.1", origins=(origin,))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_limits_are_positive(value: float) -> None:
    with pytest.raises(ConfigError, match=r"idle_s .*expected a positive number"):
        Limits(idle_s=value)


def test_settings_from_a_query_and_from_json_are_the_same() -> None:
    query = StreamSettings.parse({"lang": "en-de", "k": "3", "rate": "48000", "drafts": "1"}, 4)
    assert query == StreamSettings.parse({"lang": "en-de", "k": 3, "rate": 48000, "drafts": True}, 4)
    turns = StreamSettings.parse({"policy": "every-step", "delay": "4", "blank_bias": "-1.5"}, 4).request
    assert turns.fields == {"delay": 4, "blank_bias": -1.5}
    assert (query.request.k, query.rate_hz, query.sample_format, query.drafts) == (3, 48000, "pcm16", True)


def test_samples_have_full_scale_one() -> None:
    assert samples_of(np.array([-32768, 0, 16384], "<i2").tobytes(), "pcm16").tolist() == [-1.0, 0.0, 0.5]
    assert samples_of(np.array([0.25], "<f4").tobytes(), "float32").tolist() == [0.25]


def test_the_inbox_holds_so_many_seconds_and_one_longer_item() -> None:
    async def run() -> list[str]:
        inbox = Inbox[str](1.0)
        await inbox.put("long", 5.0)
        waiting = asyncio.create_task(inbox.put("next", 0.5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert inbox.waiting_s == 5.0
        first = await inbox.get()
        await waiting
        assert inbox.waiting_s == 0.5
        blocked = asyncio.create_task(inbox.put("late", 0.6))
        await asyncio.sleep(0.01)
        inbox.end()
        await blocked
        await inbox.put("later")
        taken = [first, await inbox.get(), await inbox.get()]
        return [arrived.item if arrived else "end" for arrived in taken]

    assert asyncio.run(run()) == ["long", "next", "end"]


def test_the_inbox_bounds_items_without_audio() -> None:
    async def run() -> None:
        inbox = Inbox[int](0.0105)
        for number in range(10):
            await inbox.put(number)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.put(10), 0.05)

    asyncio.run(run())


def test_words_join_their_pieces() -> None:
    events = [SegmentEvent("start", 0, 0.0), said("twen", 0.1, 0.3), said("ty", 0.3, 0.5), said(" one", 0.6, 0.9)]
    events += [SegmentEvent("end", 0, 0.9), said("two", 3.0, 3.2, 1)]
    assert [(word.text, word.start_s, word.end_s) for word in words(events)] == [
        ("twenty", 0.1, 0.5), ("one", 0.6, 0.9), ("two", 3.0, 3.2)
    ]  # fmt: skip
    assert [len(segment) for segment in segments(events)] == [3, 1]


def test_a_client_that_waits_for_its_text_is_not_idle() -> None:
    class Silent:
        async def receive(self) -> None:
            await asyncio.Event().wait()

    looks = iter([True, True, False])

    async def wait() -> None:
        peer = Peer(Silent(), idle_s=0.01)  # type: ignore[arg-type]  # all that it calls
        peer.computing = lambda: next(looks)
        await peer.receive()

    with pytest.raises(RefusedError, match=r"no message for 0\.01 s"):
        asyncio.run(wait())
    assert list(looks) == []
