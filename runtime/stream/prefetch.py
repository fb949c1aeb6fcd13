"""One chunk ahead: the next chunk is encoded on another thread while the text side works on the last one.

Results are those of encoding when asked; only the time differs. It knows a function of a state, not audio or graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

Encoded = tuple[Any, Any]  # Any: speech and the next state, of either kind of encoder


class Ahead:
    """Encodes the chunks of one stream in order, one at a time."""

    def __init__(self, encode: Callable[[Any], Encoded], executor: Executor | None) -> None:
        """Prepare.

        Args:
            encode: takes a state, returns its next chunk and the state after it.
            executor: where to encode ahead; None encodes when asked.
        """
        self._encode, self._executor = encode, executor
        self._begun: tuple[Any, Future[Encoded]] | None = None

    def begin(self, state: Any) -> None:
        """Begin with the chunk after `state`, which is likely to be asked for next."""
        if self._executor is not None:
            self._begun = state, self._executor.submit(self._encode, state)

    def next_chunk(self, state: Any) -> Encoded:
        """Return the chunk after `state`; one begun for another state is waited for and dropped."""
        begun, self._begun = self._begun, None
        if begun is not None:
            encoded = begun[1].result()
            if begun[0] is state:
                return encoded
        return self._encode(state)
