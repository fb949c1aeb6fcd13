"""Runs a session on one utterance, block by block as SimulEval does, and records the time of each word.

A word counts as written when it is complete: when the next word begins, the model pauses, or the segment or the audio
ends. SimulEval's agents write complete words too, so both measure the same times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestow_edge.core.utterances import read_manifest
from bestow_edge.evaluation.scores.instances import Instance
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.audio.files import blocks, read_audio
from bestow_edge.runtime.audio.resampling import StreamResampler
from bestow_edge.runtime.stream.events import Decision, SegmentEvent, TextEvent
from bestow_edge.runtime.stream.session import Session

BLOCK_MS = 80
"""Length of a block: one encoder step. It is SimulEval's --source-segment-size; delays are multiples of it."""
SILENCE_DB = -30.0
"""Level of silence, relative to the loudest 10 ms."""

Samples = npt.NDArray[np.float32]


class WordStream:
    """A session that takes audio at the rate of its file and returns complete words."""

    def __init__(self, session: Session, rate_hz: int) -> None:
        """Take a fresh session of one prompt for audio of `rate_hz`."""
        self._session = session
        self._resampler = StreamResampler(rate_hz, session.model.sample_rate_hz)
        self._open = ""
        self._paused = False
        self.texts: list[str] = []
        """Text of each event so far. Joined, they are the text of the utterance."""
        session.on_decision = self._record_pause

    def feed(self, samples: Samples, *, ended: bool) -> list[str]:
        """Take a block of audio and return the words that are complete now.

        Args:
            samples: (samples,) float32 at the file's rate; may be empty.
            ended: whether this is the last block.
        """
        events = self._session.feed(self._resampler.feed(samples))
        if ended:
            events += self._session.feed(self._resampler.finish()) + self._session.finish()
        words: list[str] = []
        for event in events:
            if isinstance(event, TextEvent):
                self.texts.append(event.text)
                words += self._push(event.text)
            elif isinstance(event, SegmentEvent) and event.kind == "end":
                words += self._close()
        return words + (self._close() if ended or self._paused else [])

    def _push(self, text: str) -> list[str]:
        text = self._open + text
        words = text.split()
        self._open = "" if not words or text[-1].isspace() else words.pop()
        return words

    def _close(self) -> list[str]:
        word, self._open = self._open, ""
        return [word] if word else []

    def _record_pause(self, decision: Decision) -> None:
        self._paused = decision.verdict == "pause"


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """Text and times of one utterance. Times are milliseconds from its start."""

    text: str
    """The text that was written."""
    delays: tuple[float, ...]
    """Audio given when each word was complete."""
    elapsed: tuple[float, ...]
    """The same plus the computing time until then."""
    pieces: tuple[tuple[str, float, float], ...]
    """Text of each event, with the audio given and the time elapsed when it came."""
    computing_ms: float
    """Computing time of the utterance."""
    length_ms: float
    """Length of the audio."""
    speech_end_ms: float
    """End of the speech, estimated by its level."""

    def instance(self, index: int, reference: str, source: str) -> Instance:
        """Return the entry of SimulEval's log. Fields that SimulEval does not have go to `extra`."""
        return Instance(
            index=index,
            prediction=" ".join(self.text.split()),
            reference=reference,
            delays=self.delays,
            elapsed=self.elapsed,
            source_length=self.length_ms,
            source=(source,),
            extra={
                "pieces": [list(piece) for piece in self.pieces],
                "computing_ms": self.computing_ms,
                "speech_end_ms": self.speech_end_ms,
            },
        )


def listen(
    session: Session, waveform: Samples, rate_hz: int, *, clock: Callable[[], float] = time.perf_counter
) -> Heard:
    """Run a session on an utterance in blocks of `BLOCK_MS`, without waiting for real time.

    Args:
        session: a fresh session of one prompt.
        waveform: (samples,) float32.
        rate_hz: of the waveform.
        clock: returns seconds.
    """
    stream = WordStream(session, rate_hz)
    delays: list[float] = []
    elapsed: list[float] = []
    pieces: list[tuple[str, float, float]] = []
    given, started_s = 0, clock()
    for block in blocks(waveform, math.ceil(BLOCK_MS / 1000 * rate_hz)):
        given += len(block)
        words = stream.feed(block, ended=given == len(waveform))
        delay_ms = given * 1000 / rate_hz
        elapsed_ms = delay_ms + (clock() - started_s) * 1000
        delays += [delay_ms] * len(words)
        elapsed += [elapsed_ms] * len(words)
        pieces += [(text, delay_ms, elapsed_ms) for text in stream.texts[len(pieces) :]]
    return Heard(
        text="".join(stream.texts),
        delays=tuple(delays),
        elapsed=tuple(elapsed),
        pieces=tuple(pieces),
        computing_ms=(clock() - started_s) * 1000,
        length_ms=len(waveform) * 1000 / rate_hz,
        speech_end_ms=speech_end_ms(waveform, rate_hz),
    )


def sample_speech(rate_hz: int, seconds: float, audio: Path | None = None) -> Samples:
    """Return speech of a length: a file's, or the recordings that ship with the package, one after the other.

    Args:
        rate_hz: of the waveform.
        seconds: its length; the speech is repeated if need be.
        audio: the file.

    Returns:
        (samples,) float32.
    """
    paths = [item.path for item in read_manifest(sample_manifest())] if audio is None else [audio]
    return np.resize(np.concatenate([read_audio(path, rate_hz) for path in paths]), round(seconds * rate_hz))


def speech_end_ms(waveform: Samples, rate_hz: int) -> float:
    """Estimate the end of the speech: the last 10 ms that are less than 30 dB below the loudest 10 ms.

    Under louder noise it is the end of the audio.

    Args:
        waveform: (samples,) float32, at least one.
        rate_hz: of the waveform.
    """
    frame = max(1, rate_hz // 100)
    padded = np.pad(waveform.astype(np.float64), (0, -len(waveform) % frame))
    power = np.square(padded).reshape(-1, frame).mean(axis=1)  # (frames of 10 ms,)
    loud = np.flatnonzero(power >= power.max() * 10 ** (SILENCE_DB / 10))
    end = min((int(loud[-1]) + 1) * frame, len(waveform))
    return end * 1000 / rate_hz
