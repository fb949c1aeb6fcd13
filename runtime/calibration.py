"""How fast this machine runs a model: a session is fed with synthetic speech for a few seconds, chunk by chunk.

The result is the computing time that a choice of K, L and look-ahead adds to the delay; `bestow_edge.core.delay`
chooses the latency itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.delay import Choice
from bestow_edge.core.policy import WaitK
from bestow_edge.core.prompts import AboutSpeech
from bestow_edge.runtime.model import Model

ROUND_S = 12.0  # audio of one session: representative, and too short to fill an LLM's context
MAX_RTF = 0.8  # leaves time for other programs
PERCENTILE = 95

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Computing times of one choice on this machine."""

    chunk_s: float
    """Audio in a chunk, seconds."""
    chunk_walls_s: tuple[float, ...]
    """Computing time of each measured chunk and its text, seconds."""

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of computing for one second of audio, on average."""
        return sum(self.chunk_walls_s) / (len(self.chunk_walls_s) * self.chunk_s)

    @property
    def extra_s(self) -> float:
        """Delay that the machine adds: the 95th percentile of the computing times of chunks, seconds."""
        return float(np.percentile(self.chunk_walls_s, PERCENTILE, method="higher"))

    @property
    def p95_rtf(self) -> float:
        """The 95th percentile of the computing times, for one second of audio."""
        return self.extra_s / self.chunk_s

    @property
    def keeps_up(self) -> bool:
        """Whether audio can be live: RTF at most 0.8, and 95 % of the chunks are done before the next one arrives.

        The other chunks do no harm: the audio after them waits, and the margin of the RTF catches up with it.
        """
        return self.rtf <= MAX_RTF and self.p95_rtf < 1


def calibrate(
    model: Model,
    prompts: Sequence[AboutSpeech],
    choice: Choice,
    seconds: float = 3.0,
    *,
    clock: Clock = time.perf_counter,
) -> Calibration:
    """Measure the computing time of a choice on this machine.

    The chunks of each session before its first token warm up and are not counted.

    Args:
        model: the loaded bundle.
        prompts: those of the session to come.
        choice: its K, L and look-ahead.
        seconds: duration of the measurement; at least one chunk is measured.
        clock: returns seconds; it may start anywhere.
    """
    chunk_samples = round((choice.lookahead + 1) * model.config.step_s * model.sample_rate_hz)
    silent = -(-choice.k * choice.l // (choice.lookahead + 1))  # chunks before K blocks are heard
    chunks = _babble(model.sample_rate_hz, chunk_samples, least=silent + 1)
    walls_s: list[float] = []
    end_s = clock() + seconds
    now_s = end_s - seconds
    while not walls_s or now_s < end_s:
        with model.multi_session(
            [(asked, WaitK(choice.k, choice.l)) for asked in prompts],
            lookahead=choice.lookahead,
            segments=SegmentConfig(pause_s=0),  # babble has pauses that speech does not have
        ) as session:
            for chunk in chunks[:silent]:
                session.feed(chunk)
            for chunk in chunks[silent:]:
                start_s = clock()
                session.feed(chunk)
                now_s = clock()
                walls_s.append(now_s - start_s)
                if now_s >= end_s:
                    break
    return Calibration(chunk_s=chunk_samples / model.sample_rate_hz, chunk_walls_s=tuple(walls_s))


def _babble(rate_hz: int, chunk_samples: int, *, least: int) -> list[npt.NDArray[np.float32]]:
    """Return synthetic speech, syllables of changing pitch in noise, as at least `least` chunks of (chunk_samples,)."""
    num_chunks = max(least, round(ROUND_S * rate_hz) // chunk_samples)
    times_s = np.arange(num_chunks * chunk_samples) / rate_hz
    pitch_hz = 120 + 60 * np.sin(2 * np.pi * 0.7 * times_s)
    voice = np.sign(np.sin(2 * np.pi * np.cumsum(pitch_hz) / rate_hz)) * (np.sin(2 * np.pi * 3 * times_s) > 0)
    noise = np.random.default_rng(0).standard_normal(times_s.size)
    waveform = (0.1 * voice + 0.01 * noise).astype(np.float32)
    return np.split(waveform, num_chunks)
