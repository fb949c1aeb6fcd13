"""Words, segments and subtitles of a text, from the events of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bestow_edge.runtime.stream.events import Event, TextEvent

LONGEST_CUE_S = 6.0
MOST_LETTERS = 84  # two lines of 42
LONGEST_GAP_S = 1.0  # without speech within a cue


@dataclass(frozen=True, slots=True)
class Span:
    """Text and its time in the audio, seconds."""

    text: str
    start_s: float
    end_s: float


def words(events: Iterable[Event]) -> list[Span]:
    """Return the words; each begins with white space in the text, or at the begin of a segment."""
    found: list[Span] = []
    segment = None
    for event in events:
        if not isinstance(event, TextEvent):
            continue
        begins = event.text[:1].isspace() or event.segment != segment
        segment = event.segment
        if begins or not found:
            found.append(Span(event.text, event.start_s, event.end_s))
        else:
            last = found[-1]
            found[-1] = Span(last.text + event.text, min(last.start_s, event.start_s), max(last.end_s, event.end_s))
    return [Span(word.text.strip(), word.start_s, word.end_s) for word in found if word.text.strip()]


def segments(events: Sequence[Event]) -> list[list[TextEvent]]:
    """Return the text events of each segment that has any."""
    found: dict[int, list[TextEvent]] = {}
    for event in events:
        if isinstance(event, TextEvent):
            found.setdefault(event.segment, []).append(event)
    return list(found.values())


def cues(events: Iterable[Event]) -> list[Span]:
    """Return subtitles: neighbouring words, as long as they fit on two lines and are spoken without a gap."""
    found: list[Span] = []
    for word in words(events):
        if found and _fits(found[-1], word):
            last = found[-1]
            found[-1] = Span(f"{last.text} {word.text}", last.start_s, max(last.end_s, word.end_s))
        else:
            start_s = max(word.start_s, found[-1].end_s) if found else word.start_s
            found.append(Span(word.text, start_s, max(word.end_s, start_s)))
    return found


def _fits(cue: Span, word: Span) -> bool:
    letters = len(cue.text) + 1 + len(word.text)
    short = word.end_s - cue.start_s <= LONGEST_CUE_S and letters <= MOST_LETTERS
    return short and word.start_s - cue.end_s <= LONGEST_GAP_S


def srt(events: Iterable[Event]) -> str:
    """Return subtitles as SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues(events), 1)
    )


def vtt(events: Iterable[Event]) -> str:
    """Return subtitles as WebVTT."""
    escaped = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    parts = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{cue.text.translate(escaped)}\n"
        for cue in cues(events)
    ]
    return "\n".join(["WEBVTT\n", *parts])


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
