"""Lines and subtitles of a text, made of a stream's events: sentences, pauses, and the times of words.

A cue is a sentence, or what stands between two pauses, cut where it becomes too long to be read on a film.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bestow_edge.core.formats import TextFormat
from bestow_edge.runtime.stream.events import Event, TextEvent

HEADERS = {"vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}

PAUSE_S = 1.0  # between two words, whose times are those of the strongest attention
LEAST_S = 1.0  # that a cue stays, if no other one begins
SHORTEST_S = 0.2  # of a cue whose words have no times of their own
SENTENCE_ENDS = frozenset(".!?…。\uff01\uff1f؟।")  # with the wide ! and ?
CLOSING = "\"'»”\u2019)]」』"  # may follow the end of a sentence; one is the apostrophe
ABBREVIATED = frozenset(["mr", "mrs", "ms", "dr", "prof", "st", "vs", "nr", "bzw", "ca", "usw", "etc"])


@dataclass(frozen=True, kw_only=True, slots=True)
class CueLimits:
    """Most text of a cue."""

    columns: int = 42
    """Columns of a line; a Chinese, Japanese or Korean character has two."""
    lines: int = 2
    """Lines."""
    seconds: float = 7.0
    """Time from its first word to its last."""


@dataclass(frozen=True, slots=True)
class Cue:
    """A text and the time in which it is spoken, seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str


@dataclass(slots=True)
class _Word:
    """Text up to the next place where a line may end."""

    start_s: float
    end_s: float
    text: str
    segment: int


class CueMaker:
    """Makes the cues of one text while it is written: in order, without overlap, each as soon as the next has begun."""

    def __init__(self, prompt: int = 0, limits: CueLimits = CueLimits()) -> None:
        """Take the number of the text in its session, and the limits."""
        self._prompt, self._limits = prompt, limits
        self._open: _Word | None = None
        self._words: list[_Word] = []
        self._written_s = 0.0  # end of the last cue

    def add(self, events: Iterable[Event]) -> list[Cue]:
        """Return the cues that events finish."""
        cues = []
        for event in events:
            if not isinstance(event, TextEvent) or event.prompt != self._prompt:
                continue
            word = self._open
            if word is not None and event.segment == word.segment and not may_end(word.text, event.text):
                word.text += event.text
                word.end_s = max(word.end_s, event.end_s)
                continue
            if word is not None:
                cues += self._take(word)
            self._open = _Word(event.start_s, event.end_s, event.text, event.segment)
        return cues

    def end(self) -> list[Cue]:
        """Return the last cues."""
        cues = [] if self._open is None else self._take(self._open)
        self._open = None
        return cues + ([self._close(None)] if self._words else [])

    def _take(self, word: _Word) -> list[Cue]:
        closed = [self._close(word.start_s)] if self._words and self._ends(word) else []
        self._words.append(word)
        return closed

    def _ends(self, word: _Word) -> bool:
        """Return whether the cue ends before a word."""
        first, last, text = self._words[0], self._words[-1], self._text()
        if word.segment != last.segment or ends_line(text, word.start_s - last.end_s):
            return True
        lines = wrapped(text + word.text, self._limits.columns)
        return len(lines) > self._limits.lines or word.end_s - first.start_s > self._limits.seconds

    def _close(self, next_s: float | None) -> Cue:
        start_s = max(self._words[0].start_s, self._written_s)
        end_s = max(start_s + SHORTEST_S, *(word.end_s for word in self._words))
        readable_s = start_s + LEAST_S
        end_s = max(end_s, readable_s if next_s is None else min(readable_s, next_s))
        cue = Cue(start_s, end_s, " ".join(self._text().split()))
        self._words, self._written_s = [], end_s
        return cue

    def _text(self) -> str:
        return "".join(word.text for word in self._words)


class Lines:
    """Breaks one text into lines while it is written: a line for each sentence, or for what stands between pauses."""

    def __init__(self, prompt: int = 0) -> None:
        """Take the number of the text in its session."""
        self._prompt = prompt
        self._line, self._end_s, self._segment = "", 0.0, 0

    def add(self, events: Iterable[Event]) -> str:
        """Return the text that events add, with newlines in place of the spaces where lines end."""
        added = ""
        for event in events:
            if not isinstance(event, TextEvent) or event.prompt != self._prompt:
                continue
            text = event.text
            ended = ends_line(self._line, event.start_s - self._end_s) and may_end(self._line, text)
            if self._line and (ended or event.segment != self._segment):
                text, self._line = text.lstrip(), ""
                added += "\n"
            added += text
            self._line += text
            self._end_s, self._segment = event.end_s, event.segment
        return added


def ends_line(text: str, pause_s: float) -> bool:
    """Return whether a line or a cue ends behind a text, because a sentence does or a pause follows."""
    text = text.rstrip()
    if pause_s >= PAUSE_S:
        return bool(text)
    text = text.rstrip(CLOSING)
    if text[-1:] not in SENTENCE_ENDS or not text:
        return False
    return not text.endswith(".") or not _abbreviated(text.split()[-1].removesuffix("."))


def may_end(text: str, following: str) -> bool:
    """Return whether a line may end between two pieces of text: at a space, or beside a wide character."""
    if text[-1:].isspace() or following[:1].isspace():
        return True
    return not _clings(following[:1]) and (_wide(text[-1:]) or _wide(following[:1]))


def wrapped(text: str, columns: int) -> list[str]:
    """Return the lines of a text, as few and as even as possible."""
    lines = _filled(text, columns)
    for fewer in range(-(-_columns(text) // max(1, len(lines))), columns):
        if len(even := _filled(text, fewer)) == len(lines):
            return even
    return lines


def shown(cue: Cue, number: int, form: TextFormat, limits: CueLimits = CueLimits()) -> str:
    """Return a cue as it stands in a file; `HEADERS` stand before the first.

    Args:
        cue: the cue.
        number: its number, from 1.
        form: srt, vtt, tsv or txt.
        limits: those of its lines.
    """
    if form == "txt":
        return f"{cue.text}\n"
    if form == "tsv":
        return f"{round(cue.start_s * 1000)}\t{round(cue.end_s * 1000)}\t{cue.text}\n"
    text = "\n".join(wrapped(cue.text, limits.columns))
    if form == "vtt":
        return f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{html.escape(text, quote=False)}\n\n"
    return f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{text}\n\n"


def document(
    events: Sequence[Event],
    prompt: int,
    form: TextFormat,
    limits: CueLimits = CueLimits(),
) -> str:
    """Return a whole file of one text: txt, srt, vtt or tsv. Arguments are those of `CueMaker` and `shown`."""
    if form == "txt":
        return Lines(prompt).add(events) + "\n"
    maker = CueMaker(prompt, limits)
    cues = [*maker.add(events), *maker.end()]
    return HEADERS.get(form, "") + "".join(shown(cue, number, form, limits) for number, cue in enumerate(cues, 1))


def _abbreviated(word: str) -> bool:
    """Return whether a full stop behind a word ends no sentence: of initials, ordinals (3.), abbreviations."""
    letters = word.strip("([«„“" + CLOSING).lower()
    return len(letters) < 2 or (letters.isdigit() and len(letters) < 3) or "." in letters or letters in ABBREVIATED


def _filled(text: str, columns: int) -> list[str]:
    lines: list[str] = []
    for piece in _pieces(text, columns):
        if lines and _columns((lines[-1] + piece).rstrip()) <= columns:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line.strip() for line in lines]


def _pieces(text: str, columns: int) -> list[str]:
    """Cut a text wherever a line may end, and words that are longer than a line."""
    pieces: list[str] = []
    for word in text.split():
        begins = True
        for letter in word:
            beside_wide = not begins and not _clings(letter) and (_wide(letter) or _wide(pieces[-1][-1]))
            if begins or beside_wide or len(pieces[-1]) >= columns:
                pieces.append(letter)
            else:
                pieces[-1] += letter
            begins = False
        pieces[-1] += " "
    return pieces


def _columns(text: str) -> int:
    return sum(2 if _wide(letter) else 1 for letter in text)


def _clings(letter: str) -> bool:
    """Return whether a letter is punctuation that begins no line."""
    return bool(letter) and unicodedata.category(letter) in {"Po", "Pe", "Pf"}


def _wide(letter: str) -> bool:
    return bool(letter) and unicodedata.east_asian_width(letter) in "WF"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
