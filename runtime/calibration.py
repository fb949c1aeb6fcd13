"""How fast this machine runs a model: a session fed with made-up speech for a few seconds, chunk by chunk.

It tells what a choice of K, L and look-ahead costs in computing time, on top of the audio that has to come first. It
knows sessions and a clock, not how latencies are chosen (`bestow_edge.core.delay`) nor what is told to the user.
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

ROUND_S = 12.0  # audio of one session: long enough to be representative, too short to fill any LLM's context
MAX_RTF = 0.8  # the rest is for what else the machine has to do
PERCENTILE = 95

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Computing times of one choice on this machine."""

    chunk_s: float
    """Audio in a chunk, seconds."""
    chunk_walls_s: tuple[float, ...]
    """Computing time of each chunk measured, with the text it brought, seconds."""

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of computing for one second of audio, on average."""
        return sum(self.chunk_walls_s) / (len(self.chunk_walls_s) * self.chunk_s)

    @property
    def extra_s(self) -> float:
        """Delay that the machine adds: the computing time that 95 % of the chunks stay within, seconds."""
        return float(np.percentile(self.chunk_walls_s, PERCENTILE, method="higher"))

    @property
    def p95_rtf(self) -> float:
        """Seconds of computing for one second of audio that 95 % of the chunks stay within."""
        return self.extra_s / self.chunk_s

    @property
    def keeps_up(self) -> bool:
        """Whether audio can be live: RTF at most 0.8, and 95 % of the chunks done before the next one is there.

        The few that take longer do no harm: what comes meanwhile waits, and the margin in the RTF catches up with it.
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
    """Measure what a choice costs on this machine.

    The chunks of each session before its first token warm up and are not counted.

    Args:
        model: the loaded bundle.
        prompts: what is asked, as in the session to come.
        choice: its K, L and look-ahead.
        seconds: time to measure for; at least one chunk is measured however long it takes.
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
            segments=SegmentConfig(pause_s=0),  # babble brings pauses that speech would not
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
    """Return made-up speech, syllables of changing pitch in noise, as at least `least` chunks of (chunk_samples,)."""
    num_chunks = max(least, round(ROUND_S * rate_hz) // chunk_samples)
    times_s = np.arange(num_chunks * chunk_samples) / rate_hz
    pitch_hz = 120 + 60 * np.sin(2 * np.pi * 0.7 * times_s)
    voice = np.sign(np.sin(2 * np.pi * np.cumsum(pitch_hz) / rate_hz)) * (np.sin(2 * np.pi * 3 * times_s) > 0)
    noise = np.random.default_rng(0).standard_normal(times_s.size)
    waveform = (0.1 * voice + 0.01 * noise).astype(np.float32)
    return np.split(waveform, num_chunks)
