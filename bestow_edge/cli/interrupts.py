"""Ctrl-C and SIGTERM that end audio, so that the text of all that was heard is still written."""

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
def stopped_by_signals(audio: Stoppable) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop the audio; a second one ends the program.

    After SIGTERM the program ends behind the block, with its exit code 143. A command that a script started in the
    background ignores Ctrl-C, by the shell's wish, and goes on ignoring it.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        audio.stop()
        restore()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
    if signal.SIGTERM in received:
        signal.raise_signal(signal.SIGTERM)
