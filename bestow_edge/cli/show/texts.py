"""Texts of events, with labels on stdout and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.cli.show.console import write
from bestow_edge.cli.show.prompts import labels, prompt_record
from bestow_edge.core.formats import TextFormat
from bestow_edge.core.prompts import AboutSpeech

if TYPE_CHECKING:
    from bestow_edge.runtime import Event
    from bestow_edge.runtime.records.subtitles import Cue


class StreamedTexts:
    """Writes texts as they come.

    A single text grows on a line, and a sentence or a pause begins a new one. Several texts would mix on one line, so
    the new text of each pair or question after a block of audio is a line of its own with a label. The lines of a pair,
    joined, are its text.
    """

    def __init__(self, prompts: Sequence[AboutSpeech], prefix: str = "") -> None:
        """Take the pair or question of each text, and the prefix of every line."""
        from bestow_edge.runtime.records.subtitles import Lines

        self._labels, self._prefix = labels(prompts), prefix
        self._lines = Lines() if len(prompts) == 1 else None

    def begin(self) -> None:
        """Write the prefix of a single text."""
        if self._lines is not None:
            write(self._prefix, end="")

    def add(self, events: Sequence[Event]) -> None:
        """Write the new text of a block of audio."""
        if self._lines is not None:
            write(self._lines.add(events).replace("\n", f"\n{self._prefix}"), end="")
            return
        for label, text in zip(self._labels, texts(events, len(self._labels)), strict=True):
            if text:
                write(self._prefix + label + text)

    def end(self) -> None:
        """End the line of a single text."""
        if self._lines is not None:
            write("")


class StreamedCues:
    """Writes the cues of a single text as they are finished: subtitles that grow."""

    def __init__(self, form: TextFormat) -> None:
        """Take their form."""
        from bestow_edge.runtime.records.subtitles import CueMaker

        self._form, self._maker, self._count = form, CueMaker(), 0

    def begin(self) -> None:
        """Write what stands before the first cue."""
        from bestow_edge.runtime.records.subtitles import HEADERS

        write(HEADERS.get(self._form, ""), end="")

    def add(self, events: Sequence[Event]) -> None:
        """Write the cues that events finish."""
        self._write(self._maker.add(events))

    def end(self) -> None:
        """Write the last cues."""
        self._write(self._maker.end())

    def _write(self, cues: Sequence[Cue]) -> None:
        from bestow_edge.runtime.records.subtitles import shown

        for cue in cues:
            self._count += 1
            write(shown(cue, self._count, self._form), end="")


def texts(events: Sequence[Event], num_prompts: int) -> list[str]:
    """Return the text that events add to each prompt's text."""
    from bestow_edge.runtime import TextEvent

    added = [""] * num_prompts
    for event in events:
        if isinstance(event, TextEvent):
            added[event.prompt] += event.text
    return added


def cue_records(events: Sequence[Event], prompt: int) -> list[dict[str, object]]:
    """Return the JSON of the cues of a text: sentences and pauses with their times."""
    from bestow_edge.runtime.records.subtitles import CueMaker

    maker = CueMaker(prompt)
    cues = [*maker.add(events), *maker.end()]
    return [{"start_s": round(cue.start_s, 3), "end_s": round(cue.end_s, 3), "text": cue.text} for cue in cues]


def event_record(event: Event, prompts: Sequence[AboutSpeech]) -> dict[str, object]:
    """Return the JSON of an event, with its pair or question."""
    from bestow_edge.runtime import SegmentEvent

    if isinstance(event, SegmentEvent):
        return event.to_dict()
    return {"event": "text", **prompt_record(prompts[event.prompt]), **event.to_dict()}
