"""The page in a headless Chromium whose microphone plays the recording of a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import Page, chromium, find_chromium
from served import ENGLISH, TEXT_DE, TEXT_EN, TOKEN, Served, eventually, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium: apt install chromium"),
]

WRITTEN = "document.querySelector('#{}-text .written').textContent"
STATUS = "document.getElementById('status')?.textContent"
READY = f"{STATUS} === 'Ready.'"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with silence before it, while the stream opens."""
    samples, rate_hz = soundfile.read(ENGLISH, dtype="float32")
    path = tmp_path_factory.mktemp("recording") / "person.wav"
    soundfile.write(path, np.concatenate([np.zeros(2 * rate_hz, np.float32), samples]), rate_hz)
    return path


@pytest.fixture
def open_page(recording: Path, tmp_path: Path) -> Iterator[Callable[[str], Page]]:
    """A function that opens an address in a new browser."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda url: stack.enter_context(chromium(url, recording, tmp_path / "profile"))


def test_captions_in_two_languages_by_keyboard(server: Served, open_page: Callable[[str], Page]) -> None:
    page = open_page(server.url)
    page.size(1100, 640)
    page.wait(READY)
    assert page.value("[...document.getElementById('source').options].map((one) => one.text)") == ["English", "German"]
    for _ in range(5):  # speech, first text, second text, delay, button
        page.press("Tab", 9)
    assert page.value("document.activeElement.id") == "toggle"
    page.press("Enter", 13, "\r")
    page.wait(f"{STATUS} === 'Listening.'")
    for name, text in (
        ("first", TEXT_EN),
        ("second", TEXT_DE),
    ):  # a busy machine's fake microphone stutters: more words
        page.wait(f"{text.split()}.every((word) => {WRITTEN.format(name)}.split(' ').includes(word))")
    assert server.figure('bestow_edge_sessions_open{kind="stream"}') == 1
    for name in ("audio", "latency", "lag"):
        assert page.value(f"document.getElementById('{name}').textContent").endswith(" s")
    page.press("Enter", 13, "\r")
    page.wait(f"{STATUS} === 'Stopped.'")
    assert page.value("document.getElementById('toggle').textContent") == "Start"
    assert page.problems == []
    assert eventually(lambda: server.open_sessions() == 0)


def test_the_page_fits_a_phone_in_the_dark(server: Served, open_page: Callable[[str], Page]) -> None:
    page = open_page(server.url)
    page.size(360, 740, dark=True, phone=True)
    page.wait(READY)
    assert page.value("document.documentElement.scrollWidth") <= 360
    assert page.value("document.getElementById('second-text').getBoundingClientRect().bottom") <= 740
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 29)"
    smallest = (
        "Math.min(...[...document.querySelectorAll('select, button')].map((one) => one.getBoundingClientRect().height))"
    )
    assert page.value(smallest) >= 44  # a finger


def test_a_delay_too_short_and_a_full_server_are_shown(open_page: Callable[[str], Page]) -> None:
    with served(sessions=1) as server:
        page = open_page(server.url)
        page.wait(READY)
        page.value("document.getElementById('delay').add(new Option('none', '0s'))")
        page.value("document.getElementById('delay').value = '0s'")
        page.value("document.getElementById('toggle').click()")
        page.wait(f"{STATUS}?.includes('the shortest possible')")
        assert eventually(lambda: server.open_sessions() == 0)
        server.process.kill()
        page.value("document.getElementById('toggle').click()")
        page.wait(f"{STATUS}?.includes('refused the connection')")


def test_a_token_is_asked_for(open_page: Callable[[str], Page]) -> None:
    with served(token=TOKEN) as server:
        page = open_page(server.url)
        page.wait(f"{STATUS} === 'This server needs a token.'")
        field = "document.getElementById('token')"
        page.value(f"{field}.value = {TOKEN!r}, {field}.dispatchEvent(new Event('change'))")
        page.wait(READY)
        page.value("document.getElementById('toggle').click()")
        page.wait(f"{WRITTEN.format('first')}.startsWith('nine')")
