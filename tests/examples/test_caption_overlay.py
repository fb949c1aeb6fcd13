"""The overlay of `examples/` on a virtual screen: real recordings become words in its window."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_portaudio import FakePortAudio
from served import ENGLISH, TEXT_DE, TEXT_EN, eventually

import bestow_edge as be

OVERLAY = Path(__file__).parents[2] / "examples" / "caption_overlay.py"
SENTENCE = OVERLAY.parent / "audio" / "sentence_en.ogg"
Open = Callable[..., Any]  # Any: an `Overlay`, of a module that is loaded by its path
SCRIPT = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import bestow_edge as be
from caption_overlay import Overlay

overlay = Overlay(be.load("demo"))
texts, end_s = ["", ""], time.monotonic() + 80
while not (sys.argv[3] in texts[0] and sys.argv[4] in texts[1]) and time.monotonic() < end_s:
    overlay.window.update()
    texts = [line.get("1.0", "end").strip() for line in overlay.lines]
overlay.close()
print(json.dumps({"texts": texts}))
"""


@pytest.fixture
def open_overlay(display: str) -> Iterator[Open]:
    """Return a function that opens the window with the arguments of `Overlay`; it is closed at the end."""
    assert display
    spec = importlib.util.spec_from_file_location("caption_overlay", OVERLAY)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["caption_overlay"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened: list[Any] = []

    def open_overlay(bundle: str, *arguments: object) -> Any:
        opened.append(module.Overlay(be.load(bundle), *arguments))
        return opened[-1]

    yield open_overlay
    for overlay in opened:
        overlay.close()
        overlay.hearing.join(60)
        assert not overlay.hearing.is_alive()
    del sys.modules["caption_overlay"]


def wait_for(overlay: Any, holds: Callable[[], bool], timeout_s: float = 120) -> None:
    """Run the window until a condition holds."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        overlay.window.update()
        assert time.monotonic() < end_s, shown(overlay)
        time.sleep(0.01)


def shown(overlay: Any) -> list[str]:
    """Return the text of each language."""
    return [line.get("1.0", "end").strip() for line in overlay.lines]


def choose(overlay: Any, number: int, name: str) -> None:
    """Choose from a menu, as a click does."""
    menu = overlay.bar.winfo_children()[number]["menu"]
    overlay.window.nametowidget(menu).invoke(name)


def test_a_spoken_sentence_comes_onto_the_screen(open_overlay: Open) -> None:
    overlay = open_overlay("people", str(SENTENCE))
    said = "The king would die if any of his subjects were to see him drink."
    wait_for(overlay, lambda: shown(overlay) == [said])
    assert overlay.lines[0].dlineinfo("end-2c") is not None


def test_two_languages_have_lines_of_their_own(open_overlay: Open) -> None:
    overlay = open_overlay("demo", str(ENGLISH), "en-en,en-de")
    wait_for(overlay, lambda: shown(overlay) == [TEXT_EN, TEXT_DE])


def test_the_newest_words_stay_visible_and_old_ones_go(open_overlay: Open) -> None:
    overlay = open_overlay("demo", str(ENGLISH))
    overlay.hearing.stop()
    for number in range(1000):
        overlay.hearing.texts.put(be.TextEvent(f" word{number}", (1,), (-0.1,), 0.0, 0.1, 0.1, number // 10))
    wait_for(overlay, lambda: "word999" in shown(overlay)[0])
    line = overlay.lines[0]
    assert line.dlineinfo("end-2c") is not None
    assert line.dlineinfo("1.0") is None
    assert len(line.get("1.0", "end")) <= 2001
    width, left = overlay.window.winfo_width(), overlay.window.winfo_x()
    assert left >= 0
    assert left + width <= overlay.window.winfo_screenwidth()


def test_menus_choose_device_languages_and_delay(open_overlay: Open, fake: FakePortAudio) -> None:
    overlay = open_overlay("demo")
    wait_for(overlay, lambda: fake.opened.get("device") == 2)
    choose(overlay, 0, "0: Built-in (ALSA)")
    wait_for(overlay, lambda: fake.opened.get("device") == 0)
    first = overlay.hearing
    choose(overlay, 1, "de: de, en")
    choose(overlay, 2, "delay 1.0 s")
    assert len(overlay.lines) == 2
    assert (overlay.choice.lang, overlay.choice.delay) == ("de-de,de-en", 3)
    wait_for(overlay, lambda: not first.is_alive() and fake.num_closed >= 2)


def test_an_error_is_shown_as_a_caption(open_overlay: Open, fake: FakePortAudio) -> None:
    fake.busy = True
    overlay = open_overlay("demo")
    wait_for(overlay, lambda: "cannot be opened" in shown(overlay)[0])


@pytest.mark.mic
def test_a_microphone_is_heard(display: str, pulse_microphone: Any) -> None:
    rate_hz = pulse_microphone.rate_hz
    waveform = np.pad(be.read_audio(ENGLISH, rate_hz), (0, 3 * rate_hz))
    pulse_microphone.speak(np.tile((waveform * 32767).astype(np.int16), 12), after_s=1.0)  # until the window hears
    pulse_microphone.env["DISPLAY"] = display
    heard = pulse_microphone.record(SCRIPT, OVERLAY.parent, TEXT_EN, TEXT_DE, timeout_s=120)
    assert TEXT_EN in heard["texts"][0]
    assert TEXT_DE in heard["texts"][1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_closes_without_a_complaint(display: str, signum: int) -> None:
    grab = pytest.importorskip("PIL.ImageGrab").grab
    command = [sys.executable, str(OVERLAY), str(ENGLISH), "--bundle", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert eventually(lambda: grab(xdisplay=display).getpixel((640, 600)) == (0x10, 0x14, 0x18), 60)
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_without_a_display_it_ends_with_one_sentence() -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter (apt install python3-tk)")
    if sys.platform != "linux":
        pytest.skip("a display can only be taken away on Linux")
    env = {key: value for key, value in os.environ.items() if key not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    done = subprocess.run([sys.executable, OVERLAY], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no window:")
