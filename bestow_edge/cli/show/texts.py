"""Texts of events, with labels on stdout and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.cli.show.console import write
from bestow_edge.cli.show.prompts import labels, prompt_record
from bestow_edge.core.prompts import AboutSpeech

if TYPE_CHECKING:
    from bestow_edge.runtime import Event


class StreamedTexts:
    """Writes texts as they come.

    A single text is one growing line. Several texts would mix on one line, so the new text of each pair or question
    after a block of audio is a line of its own with a label. The lines of a pair, joined, are its text.
    """

    def __init__(self, prompts: Sequence[AboutSpeech], prefix: str = "") -> None:
        """Take the pair or question of each text, and the prefix of every line."""
        self._labels, self._prefix = labels(prompts), prefix
        self._single = len(prompts) == 1

    def begin(self) -> None:
        """Write the prefix of a single text."""
        if self._single:
            write(self._prefix, end="")

    def add(self, events: Sequence[Event]) -> None:
        """Write the new text of a block of audio."""
        for label, text in zip(self._labels, texts(events, len(self._labels)), strict=True):
            if self._single:
                write(text, end="")
            elif text:
                write(self._prefix + label + text)

    def end(self) -> None:
        """End the line of a single text."""
        if self._single:
            write("")


def texts(events: Sequence[Event], num_prompts: int) -> list[str]:
    """Return the text that events add to each prompt's text."""
    from bestow_edge.runtime import TextEvent

    added = [""] * num_prompts
    for event in events:
        if isinstance(event, TextEvent):
            added[event.prompt] += event.text
    return added


def event_record(event: Event, prompts: Sequence[AboutSpeech]) -> dict[str, object]:
    """Return the JSON of an event, with its pair or question."""
    from bestow_edge.runtime import SegmentEvent
    from bestow_edge.runtime.stream import events

    if isinstance(event, SegmentEvent):
        return events.event_record(event)
    return {"event": "text", **prompt_record(prompts[event.prompt]), **events.event_record(event)}
