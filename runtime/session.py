"""The live loop: audio in, text events out, for one stream and one prompt.

What is written depends on the audio, the policy and the look-ahead alone, never on how the audio was cut into blocks or
how fast it came: the policy asks for encoder steps, and the loop waits for them. It knows no devices, files or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bestow_edge.errors import AudioError, ConfigError, SessionError
from bestow_edge.policy import Offline, Policy, wanted_steps
from bestow_edge.prompts import Pair
from bestow_edge.runtime.decoder import Attempt, TextDecoder
from bestow_edge.runtime.encoder_stream import EncoderStream
from bestow_edge.runtime.encoder_window import EncoderWindow
from bestow_edge.runtime.events import TextEvent
from bestow_edge.runtime.tokenizer import Detokenizer

if TYPE_CHECKING:
    from bestow_edge.runtime.model import Model

FRAMES_PER_S = 100  # mel frames
SHORTEST_PAUSE_S = 1.5  # must be longer than what a new segment hears again, or it would roll over for ever
SPARE_TOKENS = 8  # tokens an answer may be ahead of one per encoder step; more is a loop


class Session:
    """One stream of audio under one prompt. Make it with `Model.session`."""

    def __init__(self, model: Model, *, pair: Pair, policy: Policy, lookahead: int, segment_pause_s: float) -> None:
        """Prefill the prompt, so that the first token costs no more than any other.

        Args:
            model: the loaded bundle; many sessions may share it.
            pair: languages of speech and text.
            policy: read/write policy.
            lookahead: right context of the encoder, steps.
            segment_pause_s: silence after which a new segment begins, seconds; 0 = never.

        Raises:
            ConfigError: `segment_pause_s` is too short.
        """
        self.pair, self.policy = pair, policy
        self.segment = 0
        self._model = model
        self._step_s = model.config.features.step_s
        if segment_pause_s and not segment_pause_s >= SHORTEST_PAUSE_S:
            raise ConfigError(f"segment_pause_s {segment_pause_s}: expected 0 or at least {SHORTEST_PAUSE_S} s")
        self._pause_steps = round(segment_pause_s / self._step_s)
        self._encoder = _encoder(model, policy, lookahead)
        self._ended = False
        self._base_s = 0.0
        self._encoder_state: Any = self._encoder.initial_state()  # Any: each kind of encoder has a state of its own
        self._begin_segment()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True

    def feed(self, samples: npt.NDArray[np.float32]) -> list[TextEvent]:
        """Hear a block of audio and return the text it brings.

        Args:
            samples: (samples,) float32 mono at the model's rate, any number of them, full scale 1.

        Raises:
            SessionError: the session was finished, or the LLM's context is full.
            AudioError: the block is not one-dimensional float32 or holds NaN.
        """
        self._check(samples)
        self._encoder_state = self._encoder.add(samples, self._encoder_state)
        events = []
        while self._encoder.has_chunk(self._encoder_state):  # one by one: a new segment restarts the encoder
            speech, self._encoder_state = self._encoder.next_chunk(self._encoder_state)
            self._decoder.hear(speech)
            events += list(self._write())
        return events

    def finish(self) -> list[TextEvent]:
        """End the audio and return the rest of the text; nothing said is lost.

        Raises:
            SessionError: the session was finished before, or the LLM's context is full.
        """
        self._check_open()
        for speech in self._encoder.finish(self._encoder_state):
            self._decoder.hear(speech)
        self._ended = True
        return list(self._write())

    @property
    def heard_s(self) -> float:
        """Seconds of audio that reached the text side."""
        return self._base_s + self._decoder.memory.written * self._step_s

    @property
    def num_tokens(self) -> int:
        """Tokens of the current segment, prompt included."""
        return self._decoder.num_tokens

    def _begin_segment(self) -> None:
        adapter, llm = self._model.adapter, self._model.llm
        self._decoder = TextDecoder(adapter, llm, self._model.manifest, self._model.prompt_ids(self.pair))
        self._detokenizer = Detokenizer(self._model.tokenizer, prefix=" " if self.segment else "")
        self._index = 0  # answer token that comes next
        self._at_least = 0  # steps asked for by pauses
        self._last_visible = 0  # steps visible to the last token written

    def _write(self) -> Iterator[TextEvent]:
        """Write until the policy or the model asks for more speech."""
        while True:
            available = self._decoder.memory.written
            wanted = wanted_steps(self.policy, self._index, self._at_least)
            if (wanted > available and not self._ended) or not available or self._index >= available + SPARE_TOKENS:
                return
            visible = min(wanted, available)
            attempt = self._decoder.attempt(visible)
            if attempt.token_id not in self._model.manifest.end_ids:
                yield from self._commit(attempt, visible)
            elif visible == available and self._ended:
                return
            elif visible == available and self._long_pause(available):
                self._next_segment()
                return
            else:  # a pause: the next word has not been heard yet
                self._at_least = visible + max(1, self.policy.read_steps)

    def _commit(self, attempt: Attempt, visible: int) -> Iterator[TextEvent]:
        if self.num_tokens + 1 >= (context := self._model.manifest.max_text_tokens):
            raise SessionError(f"{context} tokens without a long pause fill the LLM's context; open a new session")
        self._decoder.commit(attempt.token_id)
        self._index += 1
        self._at_least = self._last_visible = visible
        if text := self._detokenizer.push(attempt.token_id):
            heard_s = self._base_s + visible * self._step_s
            yield TextEvent(text, (attempt.token_id,), attempt.log_prob, heard_s, self.segment)

    def _long_pause(self, available: int) -> bool:
        return bool(self._pause_steps) and available - self._last_visible >= self._pause_steps

    def _next_segment(self) -> None:
        """Begin anew after a long pause: prompt, speech memory and caches stay small however long the stream is."""
        self._base_s = self.heard_s - self._encoder_state.replay_frames / FRAMES_PER_S
        self._encoder_state = self._encoder.restart(self._encoder_state)
        self.segment += bool(self._index)  # a segment without text was silence
        self._begin_segment()

    def _check_open(self) -> None:
        if self._ended:
            raise SessionError("the session was finished; open a new one with model.session(...)")

    def _check(self, samples: npt.NDArray[np.float32]) -> None:
        self._check_open()
        if samples.ndim != 1 or samples.dtype != np.float32:
            got = f"{samples.dtype} {samples.shape}"
            raise AudioError(f"audio block is {got}; expected float32 (samples,), mono at the model's rate")
        if not np.isfinite(samples).all():
            raise AudioError("audio block holds NaN or Inf; expected samples between -1 and 1")


def _encoder(model: Model, policy: Policy, lookahead: int) -> EncoderStream | EncoderWindow:
    sizes = model.config.bidirectional
    if sizes is None:
        return EncoderStream(model.encoder, model.config, lookahead)
    if isinstance(policy, Offline):  # nothing reads the steps before the end, so half a window at a time will do
        sizes = replace(sizes, block=max(sizes.block, (sizes.window - sizes.right_context) // 2))
    return EncoderWindow(model.encoder, sizes, model.config.features)
