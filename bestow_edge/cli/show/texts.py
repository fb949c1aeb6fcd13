"""Texts on stdout, as they come or at the end, behind what each answers. Knows events, not terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.cli.show.console import write
from bestow_edge.cli.show.prompts import asked_record, labels
from bestow_edge.core.prompts import AboutSpeech

if TYPE_CHECKING:
    from bestow_edge.runtime import Event


class StreamedTexts:
    """Texts written as they come. One is a single growing line.

    Several would be torn to pieces on one line, so what a block of audio brings for a pair becomes a line of its own
    behind the pair: nothing is held back, nothing is changed, and the lines of a pair, put together, are its text. A
    question is treated like a pair.
    """

    def __init__(self, asked: Sequence[AboutSpeech], prefix: str = "") -> None:
        """Take the pair or question of each text and what every line begins with."""
        self._labels, self._prefix = labels(asked), prefix
        self._alone = len(asked) == 1

    def begin(self) -> None:
        """Write what comes before a single text."""
        if self._alone:
            write(self._prefix, end="")

    def add(self, events: Sequence[Event]) -> None:
        """Write what a block of audio brought."""
        for label, text in zip(self._labels, texts(events, len(self._labels)), strict=True):
            if self._alone:
                write(text, end="")
            elif text:
                write(self._prefix + label + text)

    def end(self) -> None:
        """End the line of a single text."""
        if self._alone:
            write("")


def texts(events: Sequence[Event], num_prompts: int) -> list[str]:
    """Return what events add to the text of each prompt."""
    from bestow_edge.runtime import TextEvent

    added = [""] * num_prompts
    for event in events:
        if isinstance(event, TextEvent):
            added[event.prompt] += event.text
    return added


def event_record(event: Event, asked: Sequence[AboutSpeech]) -> dict[str, object]:
    """Return an event as JSON shows it; `event` is its kind: text, segment-start or segment-end."""
    from bestow_edge.runtime import SegmentEvent

    if isinstance(event, SegmentEvent):
        return {"event": f"segment-{event.kind}", "segment": event.segment, "time_s": round(event.time_s, 3)}
    return {
        "event": "text",
        **asked_record(asked[event.prompt]),
        "text": event.text,
        "start_s": round(event.start_s, 3),
        "end_s": round(event.end_s, 3),
        "heard_s": round(event.heard_s, 3),
        "log_prob": round(event.log_prob, 4),
        "segment": event.segment,
    }
