"""The speech side of one stream: an encoder, its state, and the next chunk, encoded while text is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Generic

import numpy as np

from bestow_edge.runtime.encoders.base import Floats, SpeechEncoder, SpeechSteps, State

LEAST_S = 0.03  # of a stream that has speech: an encoder hears words in a frame or two, whatever they hold


class Listener(Generic[State]):
    """Encodes the chunks of one stream in order; encoding ahead changes the times, not the results."""

    def __init__(
        self,
        encoder: SpeechEncoder[State],
        executor: Executor | None,
        *,
        rate_hz: int = 0,
        silence_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Begin a stream. The executor encodes ahead; without one, `next_chunk` encodes a chunk.

        With `rate_hz`, the rate of the samples, a stream shorter than `LEAST_S` has nothing to encode. `silence_s` is
        the silence put before and behind the audio, seconds.
        """
        self.end_s = math.inf
        """Time at which the audio ended, seconds; infinite before the end, and for a stream without silence behind."""
        self._rate_hz, self._num_samples, self._too_short = rate_hz, 0, False
        self._encoder, self._executor = encoder, executor
        before, self._after = (np.zeros(round(seconds * rate_hz), np.float32) for seconds in silence_s)
        self._state = encoder.add(before, encoder.initial_state()) if before.size else encoder.initial_state()
        self._begun: tuple[State, Future[tuple[SpeechSteps, State]]] | None = None

    def use(self, encoder: SpeechEncoder[State]) -> None:
        """Continue with another encoder of the same kind from the next `restart` on."""
        self._encoder = encoder

    def add(self, samples: Floats) -> None:
        """Take samples in, (samples,) float32 at the model's rate, without encoding."""
        self._num_samples += samples.size
        self._state = self._encoder.add(samples, self._state)

    def end(self) -> None:
        """End the audio: `next_chunk` encodes the rest, even if it does not fill a chunk."""
        self._too_short = self._is_short()
        self._state = self._ended()
        if self._after.size:
            self.end_s = self._num_samples / self._rate_hz

    @property
    def has_chunk(self) -> bool:
        """Whether enough audio waits for the next chunk."""
        return not self._too_short and self._encoder.has_chunk(self._state)

    @property
    def ended(self) -> bool:
        """Whether the audio has ended and all of it is encoded."""
        return self._too_short or self._encoder.ended(self._state)

    def next_chunk(self) -> SpeechSteps:
        """Return the next chunk, and begin to encode the one after it if its audio is there."""
        begun, self._begun = self._begun, None
        ahead = begun[1].result() if begun is not None else None  # a result for another state is dropped
        if ahead is None or begun is None or begun[0] is not self._state:
            ahead = self._encoder.next_chunk(self._state)
        speech, self._state = ahead
        if self._executor is not None and self.has_chunk:
            self._begun = self._state, self._executor.submit(self._encoder.next_chunk, self._state)
        return speech

    def rest(self) -> list[SpeechSteps]:
        """Return the chunks that would follow if the audio ended now; the stream does not change."""
        if self._is_short():
            return []
        state, rest = self._ended(), []
        while self._encoder.has_chunk(state):
            speech, state = self._encoder.next_chunk(state)
            rest.append(speech)
        return rest

    def shortened(self, end_step: int) -> Sequence[SpeechSteps]:
        """Return what a decoder has to hear for an answer about the first steps of the segment alone."""
        if self._begun is not None:
            self._begun[1].result()  # it uses the same graph
        return self._encoder.shortened(self._state, end_step)

    def restart(self, first_step: int) -> int:
        """Begin anew at an earlier step of the segment, later if its frames are gone; return the first frame."""
        self._state, frame = self._encoder.restart(self._state, round(first_step * self._encoder.frames_per_step))
        return frame

    def level(self, first_step: int, end_step: int) -> float:
        """Return the loudness of some steps of the segment, see `SpeechEncoder.level`."""
        return self._encoder.level(self._state, first_step, end_step)

    def _is_short(self) -> bool:
        return self._num_samples < round(LEAST_S * self._rate_hz)

    def _ended(self) -> State:
        """Return the state behind the end of the audio."""
        state = self._encoder.add(self._after, self._state) if self._after.size else self._state
        return self._encoder.end(state)
