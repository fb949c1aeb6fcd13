"""Sounds without speech, synthetic or recorded: coloured noise, melodies, clatter. numpy only.

They are added to speech as noise. Utterances of such sounds alone teach the model to write nothing: a model trained
with hiss alone wrote words for music and household clatter (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
LOWEST_NOTE_HZ = 82.4  # low E of a guitar
HARMONICS = 8


def sound(count: int, rng: np.random.Generator, recordings: Sequence[Samples], rate_hz: int) -> Samples:
    """Draw one kind of sound, (count,) float32 of RMS 1. `recordings` are noises to cut from; there may be none."""
    kind = rng.choice(4 if recordings else 3)
    if kind == 0:
        noise = coloured(count, rng)
    elif kind == 1:
        noise = melody(count, rng, rate_hz)
    elif kind == 2:
        noise = clatter(count, rng, rate_hz)
    else:
        recording = recordings[int(rng.integers(len(recordings)))]
        start = rng.integers(recording.size)
        noise = np.take(recording, np.arange(start, start + count), mode="wrap").astype(np.float64)
    levelled: Samples = (noise / (np.sqrt(np.mean(noise**2)) + 1e-9)).astype(np.float32)
    return levelled


def coloured(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return (count,) of noise whose spectrum falls by 0 to 6 dB an octave."""
    white = np.fft.rfft(rng.standard_normal(max(count, 2)))
    colour = np.arange(1, white.size + 1) ** -rng.uniform(0, 1.0)
    return np.fft.irfft(white * colour, max(count, 2))[:count]


def melody(count: int, rng: np.random.Generator, rate_hz: int) -> npt.NDArray[np.float64]:
    """Return (count,) of one to three instruments, each with its own timbre and pace."""
    out = np.zeros(count)
    for _ in range(rng.integers(1, 4)):
        amplitudes = np.arange(1.0, HARMONICS + 1) ** np.float64(-rng.uniform(0.3, 2.0))
        usual_s, decay_s = rng.uniform(0.12, 0.8), rng.uniform(0.1, 2.0)
        start = 0
        while start < count:
            length = min(count - start, int(usual_s * rng.choice([0.5, 1, 1, 2]) * rate_hz))
            if rng.random() < 0.85:  # else a rest
                out[start : start + length] += _note(length, rng, amplitudes, decay_s, rate_hz)
            start += length
    return out


def _note(
    count: int, rng: np.random.Generator, amplitudes: npt.NDArray[np.float64], decay_s: float, rate_hz: int
) -> npt.NDArray[np.float64]:
    frequency = LOWEST_NOTE_HZ * 2 ** (rng.integers(0, 40) / 12)
    seconds = np.arange(count) / rate_hz
    audible = int(min(HARMONICS, rate_hz / 2 // frequency))
    partials = np.sin(2 * np.pi * frequency * np.outer(np.arange(1, audible + 1), seconds))  # (partials, samples)
    attack = np.minimum(1, seconds / 0.01)
    return np.asarray(amplitudes[:audible] @ partials * attack * np.exp(-seconds / decay_s))


def clatter(count: int, rng: np.random.Generator, rate_hz: int) -> npt.NDArray[np.float64]:
    """Return (count,) of one to ten blows a second, each ringing at a few frequencies."""
    out = np.zeros(count)
    seconds = np.arange(rate_hz // 4) / rate_hz
    for _ in range(rng.poisson(count / rate_hz * rng.uniform(1, 10))):
        modes = rng.integers(2, 7)
        frequencies, decays = rng.uniform(300, 7500, modes), rng.uniform(0.003, 0.06, modes)
        ringing = np.sin(2 * np.pi * np.outer(frequencies, seconds)) * np.exp(-seconds / decays[:, None])
        blow = rng.standard_normal(modes) @ ringing * rng.exponential()
        start = int(rng.integers(count))
        out[start : start + blow.size] += blow[: count - start]
    return out
