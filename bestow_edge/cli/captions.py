"""Growing text on stdout with a status line below it where stderr is a terminal. Knows terminals, not audio devices.

Text is append-only. Where both streams are the terminal, the unfinished line of text is drawn together with the status
line and becomes ordinary output when it is full; everywhere else text is written as it comes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.live import Live
from rich.text import Text

from bestow_edge.cli.console import err, write, write_json
from bestow_edge.cli.run import event_record

if TYPE_CHECKING:
    from bestow_edge.runtime import Event

FLOOR_DB = -60.0  # left end of the level bar
BAR_CELLS = 20
LATE_S = 1.0  # lag from which the machine counts as falling behind


@dataclass(frozen=True, slots=True)
class Status:
    """What the status line shows."""

    level_db: float
    """Level of the last block, dB below full scale."""
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
    """Return the level of samples, shape (samples,), in dB below full scale."""
    power = float(np.square(block, dtype=np.float64).mean())
    return 10 * math.log10(max(power, 1e-12))


class Captions:
    """Shows events as text or as JSON lines for the time of a `with` block."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._line = ""  # drawn with the status line, not yet on stdout
        self._status = ""
        self._live = _new_live()
        self._drawn = err.is_terminal
        self._shared = self._drawn and sys.stdout.isatty()

    def __enter__(self) -> Captions:
        """Begin to draw, on a terminal."""
        if self._drawn:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the status line away and end the text with a newline."""
        if self._drawn:
            self._live.stop()
        if not self._as_json:
            write(self._line)

    def add(self, events: Sequence[Event], audio_s: float, wall_s: float) -> None:
        """Show events.

        Args:
            events: what was added to the text.
            audio_s: seconds of audio processed until now.
            wall_s: seconds passed since listening began.
        """
        for event in events:
            if self._as_json:
                times = {"audio_s": round(audio_s, 3), "wall_s": round(wall_s, 3)}
                self._print_above(event_record(event) | times)
            elif self._shared:
                self._append(event.text)
            else:
                write(event.text, end="")

    def show(self, status: Status) -> None:
        """Redraw the status line."""
        if self._drawn:
            self._status = str(status)
            self._draw()

    def _append(self, text: str) -> None:
        """Add to the drawn line; what is full goes to stdout."""
        self._line += text
        while len(self._line) >= err.width:
            cut = self._line.rfind(" ", 1, err.width) + 1 or err.width
            full, self._line = self._line[:cut], self._line[cut:]
            self._print_above(full.rstrip())
        self._draw()

    def _print_above(self, result: str | dict[str, object]) -> None:
        if self._shared:
            self._live.stop()
        if isinstance(result, str):
            write(result)
        else:
            write_json(result)
        if self._shared:
            self._live = _new_live()  # the old one, started again, would erase as many lines as it had drawn
            self._live.start()

    def _draw(self) -> None:
        status = Text(self._status, style="dim", no_wrap=True, overflow="crop")
        self._live.update(Group(Text(self._line), status) if self._line else status, refresh=True)


def _new_live() -> Live:
    return Live(console=err, transient=True, auto_refresh=False, redirect_stdout=False)
