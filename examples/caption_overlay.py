"""Captions over all other windows: a strip at the bottom of the screen, in one or two languages.

    python examples/caption_overlay.py [FILE] [--bundle demo] [--lang de-de,de-en]

Expected: the words that the microphone hears, the newest always visible, each language on lines of its own. The menus
choose the device (a monitor of PulseAudio hears what the computer plays), the languages and the delay. Drag the strip
to move it; Escape or the cross closes it. A FILE is played in real time instead. Needs a display and:
pip install 'bestow-edge[cpu,mic]', apt install python3-tk libportaudio2

Only the main thread may touch tkinter: `Hearing` puts events into a queue, and the window looks into it.
"""

from __future__ import annotations

import argparse
import queue
import signal
import sys
import threading
import time
import tkinter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import bestow_edge as be
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.request import Request, default_pair
from bestow_edge.runtime.audio.files import blocks
from bestow_edge.runtime.audio.microphone import Microphone, list_devices

DELAYS = {  # policy of the model -> the field that delays its text, and values to choose from
    "wait-k": ("k", (3, 6, 9, 12)),
    "local-agreement": ("l", (4, 8, 16)),
    "align-att": ("threshold", (2, 4, 8)),
    "every-step": ("delay", (2, 4, 8)),
}
LOOK_MS, KEPT = 50, 2000  # between two looks into the queue; characters that are kept of a text
PAPER, BUTTON, QUIET, INKS = "#101418", "#1d242b", "#a0a9b2", ("#ffffff", "#ffd866")
FLAT: dict[str, Any] = {  # Any: of tkinter
    "bg": BUTTON,
    "fg": QUIET,
    "activebackground": QUIET,
    "bd": 0,
    "highlightthickness": 0,
    "font": ("", 11),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the menus say."""

    device: str | int | None
    """Input device as `Microphone` takes it."""
    lang: str
    """Pairs of one spoken language, such as `de-de,de-en`."""
    delay: int
    """Value of the field in `DELAYS`."""


class Hearing(threading.Thread):
    """Hears a microphone or a file until it ends or is stopped."""

    def __init__(self, model: be.Model, choice: Choice, file: str | None, before: Hearing | None = None) -> None:
        """Take a choice; hearing begins when the one before has closed its device."""
        super().__init__(name="hearing")
        self.texts: queue.SimpleQueue[be.Event | be.BestowEdgeError] = queue.SimpleQueue()
        """What is to be shown."""
        self._model, self._choice, self._file, self._before = model, choice, file, before
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Hear no more; returns at once."""
        self._stopping.set()

    def run(self) -> None:
        """Feed a session in this thread, read it in another one."""
        if self._before is not None:
            self._before.join()
            self._before = None
        delay: dict[str, Any] = {DELAYS[self._model.config.policy.name][0]: self._choice.delay}  # Any: by name
        try:
            session = self._model.open(Request(lang=self._choice.lang, **delay))
            with self._source() as source, be.LiveSession(session, max_audio_s=10.0) as live:
                reading = threading.Thread(target=self._read, args=(live,), name="reading")
                reading.start()
                for block in source:
                    if self._stopping.is_set():
                        break
                    live.feed(block)
                live.finish()
                reading.join()
        except be.BestowEdgeError as error:  # no device, or a computer that is too slow
            self.texts.put(error)

    def _source(self) -> AbstractContextManager[Iterator[npt.NDArray[np.float32]]]:
        rate_hz = self._model.sample_rate_hz
        if self._file is None:
            return Microphone(self._choice.device, sample_rate_hz=rate_hz)
        return nullcontext(play(self._file, rate_hz))

    def _read(self, live: be.LiveSession) -> None:
        try:
            for event in live:
                self.texts.put(event)
        except be.BestowEdgeError as error:
            self.texts.put(error)


class Overlay:
    """The window. Only the main thread may call it."""

    def __init__(self, model: be.Model, file: str | None = None, lang: str | None = None) -> None:
        """Show the window and begin to hear; TclError if there is no display."""
        self.window, self._model, self._file = tkinter.Tk(), model, file
        self.lines: list[tkinter.Text] = []
        """A text for each language."""
        devices, langs, delays = devices_of(file), langs_of(model.config), delays_of(model.config)
        langs |= {lang: lang} if lang else {}
        field, _ = DELAYS[model.config.policy.name]
        spoken = default_pair(model.config).partition("-")[0]
        chosen = lang or next(pairs for pairs in langs.values() if pairs.startswith(spoken))
        self.choice = Choice(device=None, lang=chosen, delay=getattr(model.config.policy, field))
        self.bar = tkinter.Frame(self.window, bg=BUTTON)
        for name, values in (("device", devices), ("lang", langs), ("delay", delays)):
            self._add_menu(name, values)
        tkinter.Button(self.bar, text="✕", command=self.close, **FLAT).pack(side="right")
        self.bar.pack(fill="x")
        self._place()
        self._grabbed = 0, 0
        self.hearing = Hearing(model, self.choice, file)
        self._begin()
        self._look()

    def close(self) -> None:
        """Close the window and hear no more; the threads end soon."""
        self.hearing.stop()
        self.window.destroy()

    def _place(self) -> None:
        """Put the window without borders above the others, at the bottom of the screen."""
        window, width, height = self.window, self.window.winfo_screenwidth(), self.window.winfo_screenheight()
        window.title("Captions")
        window.configure(bg=PAPER)
        window.attributes("-topmost", True)
        if window.tk.call("tk", "windowingsystem") == "x11":
            window.attributes("-type", "splash")  # no borders, and the window manager still gives it the keyboard
        else:
            window.overrideredirect(True)
        window.minsize(width * 4 // 5, 1)
        window.geometry(f"+{width // 10}+{height * 2 // 3}")
        window.bind("<Escape>", lambda _: self.close())

    def _add_menu(self, field: str, values: Mapping[str, str | int | None]) -> None:
        """Add a menu for a field of `Choice`, by the names of its values."""

        def choose(name: str) -> None:
            changed: dict[str, Any] = {field: values[name]}  # Any: by name
            self.choice = replace(self.choice, **changed)
            self.hearing.stop()
            self.hearing = Hearing(self._model, self.choice, self._file, self.hearing)
            self._begin()

        current = next(name for name, value in values.items() if value == getattr(self.choice, field))
        menu = tkinter.OptionMenu(self.bar, tkinter.StringVar(self.bar, current), *values, command=choose)
        menu.configure(**FLAT)
        menu.pack(side="left", padx=6)

    def _begin(self) -> None:
        """Hear what is chosen, on empty lines."""
        for line in self.lines:
            line.destroy()
        pairs = self.choice.lang.split(",")
        self.lines = [self._add_line(ink) for _, ink in zip(pairs, INKS, strict=False)]
        self.hearing.start()

    def _add_line(self, ink: str) -> tkinter.Text:
        size = -(self.window.winfo_screenheight() // 20)  # pixels
        line = tkinter.Text(self.window, width=1, height=2, wrap="word", font=("", size), bg=PAPER, fg=ink, bd=0)
        line.configure(highlightthickness=0, padx=16, pady=4, cursor="fleur")
        line.bindtags((str(line), str(self.window)))  # without those of the class, which edit and select
        line.bind("<Button-1>", self._grab)
        line.bind("<B1-Motion>", self._drag)
        line.pack(fill="x")
        return line

    def _grab(self, event: tkinter.Event[tkinter.Text]) -> None:
        self.window.focus_force()
        self._grabbed = event.x_root - self.window.winfo_x(), event.y_root - self.window.winfo_y()

    def _drag(self, event: tkinter.Event[tkinter.Text]) -> None:
        self.window.geometry(f"+{event.x_root - self._grabbed[0]}+{event.y_root - self._grabbed[1]}")

    def _look(self) -> None:
        """Show what came since the last look."""
        texts = self.hearing.texts
        while not texts.empty():
            self._show(texts.get())
        self.window.after(LOOK_MS, self._look)

    def _show(self, event: be.Event | be.BestowEdgeError) -> None:
        """Append to the line of the event's language; a pause begins a new row."""
        if isinstance(event, be.BestowEdgeError):
            self.lines[0].replace("1.0", "end", str(event))
        elif isinstance(event, be.TextEvent):
            line = self.lines[event.prompt]
            line.insert("end", event.text.lstrip() if line.get("end-2c") == "\n" else event.text)
            line.delete("1.0", f"end-{KEPT}c")
            line.see("end")
        elif event.kind == "end":
            for line in self.lines:
                line.insert("end", "\n")


def play(file: str, rate_hz: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a recording at the speed of a microphone, 80 ms at a time."""
    for block in blocks(be.read_audio(file, rate_hz), rate_hz * 80 // 1000):
        time.sleep(0.08)
        yield block


def devices_of(file: str | None) -> dict[str, str | int | None]:
    """Return the choice of devices by their names; a file leaves none."""
    if file is not None:
        return {file: None}
    listed = {str(device): device.source or device.index for device in list_devices()}
    return {"default microphone": None, **listed}


def langs_of(config: ModelConfig) -> dict[str, str]:
    """Return for each spoken language at most two pairs, by a name."""
    pairs = (["auto"] if config.connector.detects else []) + list(config.pairs)
    sources = dict.fromkeys(pair.partition("-")[0] for pair in pairs)
    found = {source: [pair for pair in pairs if pair.partition("-")[0] == source][:2] for source in sources}
    return {
        f"{source}: {', '.join(pair.partition('-')[2] or source for pair in some)}": ",".join(some)
        for source, some in found.items()
    }


def delays_of(config: ModelConfig) -> dict[str, int]:
    """Return the choice of delays by their seconds."""
    field, values = DELAYS[config.policy.name]
    steps = config.policy.l if field == "k" else 1
    return {
        f"delay {value * steps * config.step_s:.1f} s": value
        for value in sorted({*values, getattr(config.policy, field)})
    }


def main() -> None:
    """Show the window until it is closed."""
    parser = argparse.ArgumentParser(description="Captions over all other windows.")
    parser.add_argument("file", nargs="?", help="recording to play instead of a microphone")
    parser.add_argument("--bundle", default="people", help="model")
    parser.add_argument("--lang", help="one or two pairs of a spoken language, such as de-de,de-en")
    args = parser.parse_args()
    overlay = Overlay(be.load(args.bundle), args.file, args.lang)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: overlay.window.after_idle(overlay.close))
    overlay.window.mainloop()


if __name__ == "__main__":
    try:
        main()
    except be.BestowEdgeError as error:
        sys.exit(str(error))
    except tkinter.TclError as error:
        sys.exit(f"no window: {error}; run it on a desktop, or examples/captions_asyncio.py in a terminal")
