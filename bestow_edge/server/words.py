"""Words and segments of a text, from the events of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bestow_edge.runtime.stream.events import Event, TextEvent


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
