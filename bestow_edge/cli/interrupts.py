"""Ctrl-C that ends audio, so that the text of all that was heard is still written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """Audio that comes and can be ended."""

    def stop(self) -> None:
        """End the audio; what has come can still be read."""


@contextmanager
def stopped_by_ctrl_c(audio: Stoppable) -> Iterator[None]:
    """Let the first Ctrl-C stop the audio; a second one ends the program."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        audio.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
