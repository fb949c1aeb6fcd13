"""Growing texts on stdout, with a status line below them if stderr is a terminal.

Text is only appended. If both streams are the terminal, the unfinished line of each text is drawn with the status line
and becomes ordinary output when it is full. Otherwise texts are written as they come.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.live import Live
from rich.text import Text

from bestow_edge.cli.show.console import err, plain, write, write_json
from bestow_edge.cli.show.prompts import labels
from bestow_edge.cli.show.texts import StreamedTexts, event_record
from bestow_edge.core.prompts import AboutSpeech

if TYPE_CHECKING:
    from bestow_edge.runtime import Event

FLOOR_DB = -60.0  # left end of the level bar
BAR_CELLS = 20
LABEL_CELLS = 24  # characters of a question in the label of its answer
LATE_S = 1.0  # a machine with a longer lag is "falling behind"


@dataclass(frozen=True, slots=True)
class Status:
    """Values of the status line."""

    level_db: float
    """Level of the last block, dB relative to full scale; at most 0."""
    lag_s: float
    """Seconds recorded but not processed yet."""
    audio_s: float
    """Seconds processed."""
    num_overflows: int = 0
    """Times the device lost audio."""

    def __str__(self) -> str:
        cells = round(BAR_CELLS * min(1.0, max(0.0, 1 - self.level_db / FLOOR_DB)))
        level = f"[{'#' * cells}{'-' * (BAR_CELLS - cells)}] {max(self.level_db, FLOOR_DB):4.0f} dB"
        pace = "falling behind" if self.lag_s > LATE_S else "keeping up"
        lost = f", audio lost {self.num_overflows} times" if self.num_overflows else ""
        return f"{level}  lag {self.lag_s:.1f} s  {pace}{lost}  heard {self.audio_s:.1f} s"


def level_db(block: npt.NDArray[np.float32]) -> float:
    """Return the level of samples, shape (samples,), in dB relative to full scale."""
    power = float(np.square(block, dtype=np.float64).mean())
    return 10 * math.log10(max(power, 1e-12))


class GrowingLine:
    """The label and the unfinished line of one text."""

    def __init__(self, label: str) -> None:
        """Begin without text."""
        self._label = label
        self._text = ""

    def __str__(self) -> str:
        return self._label + self._text

    def add(self, text: str, width: int) -> list[str]:
        """Append text and return the lines that are full or that a newline ends.

        The unfinished line stays narrower than `width` cells.
        """
        room = max(1, width - len(self._label))
        ended = []
        for number, part in enumerate(text.split("\n")):
            if number:
                ended += [str(self).rstrip()] if self._text else []
                self._text = ""
            self._text += part
            while len(self._text) >= room:
                cut = self._text.rfind(" ", 1, room) + 1 or room
                ended.append(self._label + self._text[:cut].rstrip())
                self._text = self._text[cut:]
        return ended


class Captions:
    """Shows the events of one or several texts, as text or as lines of JSON, within a `with` block."""

    def __init__(self, prompts: Sequence[AboutSpeech], *, as_json: bool) -> None:
        """Take the pair or question of each text."""
        from bestow_edge.runtime.records.subtitles import Lines

        self._prompts, self._as_json = prompts, as_json
        self._status = ""
        self._live = _new_live()
        self._drawn = err.is_terminal  # a status line is drawn
        self._shared = self._drawn and sys.stdout.isatty()  # on the terminal that is also stdout
        drawn_labels = labels(prompts, LABEL_CELLS) if self._shared and not as_json else []
        self._growing = [GrowingLine(label) for label in drawn_labels]
        self._lines = [Lines(prompt) for prompt in range(len(drawn_labels))]
        self._streamed = StreamedTexts(prompts)  # for texts that are neither drawn nor JSON

    def __enter__(self) -> Captions:
        """Begin to draw if there is a terminal."""
        if self._drawn:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the status line and end the texts with a newline."""
        if self._drawn:
            self._live.stop()
        for line in self._growing:
            write(str(line))
        if not self._growing and not self._as_json:
            self._streamed.end()

    def add(self, events: Sequence[Event], audio_s: float, wall_s: float) -> None:
        """Show events.

        Args:
            events: new events of the session.
            audio_s: seconds of audio processed until now.
            wall_s: seconds since the start of the recording.
        """
        if self._as_json:
            times = {"audio_s": round(audio_s, 3), "wall_s": round(wall_s, 3)}
            for event in events:
                with self._above():
                    write_json(event_record(event, self._prompts) | times)
        elif self._growing:
            self._grow(events)
        else:
            self._streamed.add(events)

    def show(self, status: Status) -> None:
        """Redraw the status line."""
        if self._drawn:
            self._status = str(status)
            self._draw()

    def _grow(self, events: Sequence[Event]) -> None:
        """Add to the drawn lines, and write those to stdout that are full or that a sentence or a pause ends."""
        for line, lines in zip(self._growing, self._lines, strict=True):
            for ended in line.add(lines.add(events), err.width):
                with self._above():
                    write(ended)
        self._draw()

    @contextmanager
    def _above(self) -> Iterator[None]:
        """Remove the drawing during output to stdout if both are on the same terminal."""
        if not self._shared:
            yield
            return
        self._live.stop()
        yield
        self._live = _new_live()  # a restarted Live would erase the lines it drew before
        self._live.start()

    def _draw(self) -> None:
        lines = [Text(plain(str(line))) for line in self._growing if str(line)]
        status = Text(plain(self._status), style="dim", no_wrap=True, overflow="crop")
        self._live.update(Group(*lines, status), refresh=True)


def _new_live() -> Live:
    return Live(console=err, transient=True, auto_refresh=False, redirect_stdout=False)
