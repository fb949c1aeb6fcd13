"""Texts on stdout, as they come or at the end, and the pair each line belongs to. Knows events, not terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.cli.console import write

if TYPE_CHECKING:
    from bestow_edge.runtime import Event


class StreamedTexts:
    """Texts written as they come. One is a single growing line.

    Several would be torn to pieces on one line, so what a block of audio brings for a pair becomes a line of its own
    behind the pair: nothing is held back, nothing is changed, and the lines of a pair, put together, are its text.
    """

    def __init__(self, langs: Sequence[str], prefix: str = "") -> None:
        """Take the pair of each text and what every line begins with."""
        self._langs, self._prefix = langs, prefix
        self._alone = len(langs) == 1

    def begin(self) -> None:
        """Write what comes before a single text."""
        if self._alone:
            write(self._prefix, end="")

    def add(self, events: Sequence[Event]) -> None:
        """Write what a block of audio brought."""
        for label, text in zip(labels(self._langs), texts(events, len(self._langs)), strict=True):
            if self._alone:
                write(text, end="")
            elif text:
                write(self._prefix + label + text)

    def end(self) -> None:
        """End the line of a single text."""
        if self._alone:
            write("")


def labels(langs: Sequence[str]) -> list[str]:
    """Return what the lines of each text begin with; a single text needs nothing."""
    return [""] if len(langs) == 1 else [f"{lang}: " for lang in langs]


def texts(events: Sequence[Event], num_prompts: int) -> list[str]:
    """Return what events add to the text of each prompt."""
    from bestow_edge.runtime import TextEvent

    added = [""] * num_prompts
    for event in events:
        if isinstance(event, TextEvent):
            added[event.prompt] += event.text
    return added


def event_record(event: Event, langs: Sequence[str]) -> dict[str, object]:
    """Return an event as JSON shows it; `event` is its kind: text, segment-start or segment-end."""
    from bestow_edge.runtime import SegmentEvent

    if isinstance(event, SegmentEvent):
        return {"event": f"segment-{event.kind}", "segment": event.segment, "time_s": round(event.time_s, 3)}
    return {
        "event": "text",
        "lang": langs[event.prompt],
        "text": event.text,
        "start_s": round(event.start_s, 3),
        "end_s": round(event.end_s, 3),
        "heard_s": round(event.heard_s, 3),
        "log_prob": round(event.log_prob, 4),
        "segment": event.segment,
    }
