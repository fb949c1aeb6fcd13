"""Captions in a window of the desktop, from the microphone or from a file played in real time.

    python examples/desktop_captions.py [FILE]

Expected: a window in which German digits appear as English ones are said. Only the main thread may touch tkinter, so
another one listens. Needs a display and: pip install 'bestow-edge[cpu,mic]', apt install python3-tk libportaudio2
"""

import queue
import sys
import threading
import time
import tkinter
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt

import bestow_edge as be
from bestow_edge.runtime.audio.files import blocks
from bestow_edge.runtime.audio.microphone import Microphone


def play(file: str, rate_hz: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a recording at the speed of a microphone, 80 ms at a time."""
    for block in blocks(be.read_audio(file, rate_hz), rate_hz * 80 // 1000):
        time.sleep(0.08)
        yield block


def listen(model: be.Model, texts: queue.Queue[str], file: str = "") -> None:
    """Put the session's text into the queue; an error becomes the caption."""
    source = nullcontext(play(file, model.sample_rate_hz)) if file else Microphone(sample_rate_hz=model.sample_rate_hz)
    try:
        with source as heard, model.session(source="en", target="de") as session:
            for event in be.stream(session, heard):
                texts.put(event.text)
    except be.BestowEdgeError as error:
        texts.put(str(error))


def show(window: tkinter.Tk, label: tkinter.Label, texts: queue.Queue[str]) -> None:
    """Append what was written since the last look; the latest 200 characters stay visible."""
    while not texts.empty():
        label["text"] = (label["text"] + texts.get())[-200:]
    window.after(100, show, window, label, texts)


if __name__ == "__main__":
    try:
        window = tkinter.Tk()
    except tkinter.TclError as error:
        sys.exit(f"no window: {error}; run it on a desktop, or examples/captions_asyncio.py in a terminal")
    (label := tkinter.Label(window, font=("", 32), width=40, height=3, wraplength=900)).pack()
    texts: queue.Queue[str] = queue.Queue()
    threading.Thread(target=listen, args=(be.load("demo"), texts, *sys.argv[1:2]), daemon=True).start()
    show(window, label, texts)
    window.mainloop()
