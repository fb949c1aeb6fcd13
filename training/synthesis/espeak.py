"""A program that speaks texts with libespeak-ng and returns word times: `python -I -S espeak.py LIBRARY`.

The library's noise and pitch depend on the texts spoken before. So the program loads it once and speaks each text in a
forked process; without fork (Windows) it ends after one text. Standard library only, to start quickly.

For each text it reads a line `VOICE WORDS_PER_MINUTE PITCH GAP BYTES` and the text (UTF-8), and writes a line `rate
words bytes`, for each word event a line `place first end` (position in the text, from 0; samples), and the 16-bit
samples. A word begins with its first sound and ends at the pause after it or at the next word. On an error the program
ends with a message on standard error.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False  # typing and collections.abc would take a third of the start
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SYNCHRONOUS, PHONEME_EVENTS, DONT_EXIT, UTF8 = 2, 1, 0x8000, 1  # speak_lib.h; so are all numbers below
WORD, END, PHONEME = 1, 5, 7
RATE, PITCH, WORDGAP = 1, 3, 7
FORKS = hasattr(os, "fork")
Moment = tuple[int, int, int, bytes]
"""Type of an event, position in the text from 1, sample, name of the phoneme."""


class Event(ctypes.Structure):
    """espeak_EVENT."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


def say(library: Any, text: bytes) -> tuple[bytes, list[Moment]]:  # Any: functions of the library
    """Speak a text with the voice that is set. Return 16-bit samples and the events.

    Raises:
        SystemExit: if the library fails.
    """
    sound = bytearray()
    moments: list[Moment] = []

    def collect(samples: int | None, count: int, events: Any) -> int:  # Any: a pointer, which ctypes cannot name
        if samples and count:
            sound.extend(ctypes.string_at(samples, 2 * count))
        index = 0
        while (event := events[index]).type:
            moments.append((event.type, event.text_position if event.length else 0, event.sample, event.name))
            index += 1
        return 0

    callback = CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_Synth(text + b"\0", len(text) + 1, 0, 1, 0, UTF8, None, None):
        sys.exit("cannot speak it")
    return bytes(sound), moments


def word_spans(moments: Iterable[Moment], num_samples: int) -> list[tuple[int, int, int]]:
    """Return position in the text, from 0, first sample and end of each word event of a sound of `num_samples`.

    The moments are in their order. Phonemes whose names begin with `_` are pauses.
    """
    spans: list[tuple[int, int, int]] = []
    first = end = -1  # of the word that is being spoken
    for kind, position, sample, name in [*moments, (WORD, 1, num_samples, b"")]:
        if kind == WORD and position:
            if spans:
                first = spans[-1][1] if first < 0 else first
                spans[-1] = (spans[-1][0], first, sample if end < 0 else end)
            spans.append((position - 1, sample, sample))
            first = end = -1
        elif kind == PHONEME and not name.startswith(b"_"):
            first, end = (sample if first < 0 else first), -1
        elif kind in {PHONEME, END} and end < 0 <= first:
            end = sample
    return spans[:-1]


def speak(library: Any, rate_hz: int, request: list[str], text: bytes) -> None:  # Any: functions of the library
    """Speak a text, UTF-8, and write it to standard output. The request is voice, words a minute, pitch and gap.

    Raises:
        SystemExit: if the library refuses the voice or fails.
    """
    voice, *numbers = request
    if library.espeak_SetVoiceByName(voice.encode()):
        sys.exit("no such voice")
    for parameter, number in zip((RATE, PITCH, WORDGAP), numbers, strict=True):
        library.espeak_SetParameter(parameter, int(number), 0)
    sound, moments = say(library, text)
    spans = word_spans(moments, len(sound) // 2)
    lines = [f"{rate_hz} {len(spans)} {len(sound)}", *(" ".join(map(str, span)) for span in spans), ""]
    sys.stdout.buffer.write("\n".join(lines).encode() + sound)
    sys.stdout.buffer.flush()


def main(path: str) -> None:
    """Speak the texts of standard input.

    Raises:
        SystemExit: if the library does not start, refuses a voice or fails.
    """
    library = ctypes.CDLL(path)
    rate_hz = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS | DONT_EXIT)
    if rate_hz <= 0:
        sys.exit("does not start: its data are missing")
    while line := sys.stdin.buffer.readline():
        *request, count = line.decode().split()
        text = sys.stdin.buffer.read(int(count))
        copy = os.fork() if FORKS else 0
        if copy and os.waitpid(copy, 0)[1]:
            sys.exit(1)  # the forked process has printed the reason
        if not copy:
            speak(library, rate_hz, request, text)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
