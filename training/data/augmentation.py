"""Augmentation of training audio: speed, room, microphone, noise, level, masked features. numpy and soxr.

Functions draw from the given random generator only and return new arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import soxr

from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.features import log_mel, mel_centres
from bestow_edge.training.data.noises import sound
from bestow_edge.training.recipe.data import AugmentRecipe

Samples = npt.NDArray[np.float32]
TELEPHONE_HZ = 8000  # sampling rate of telephones and of old corpora
FRAME_SAMPLES_ROUND = 4096  # FFT lengths are rounded up to a multiple with small factors


def scaled(recipe: AugmentRecipe, strength: float) -> AugmentRecipe:
    """Return a recipe with all chances and ranges multiplied by `strength`."""
    values = {name: value * strength for name, value in asdict(recipe).items() if name != "noise_files"}
    whole = {name: round(values[name]) for name in ("mask_bins", "mask_frames")}
    return replace(recipe, **(values | whole))


def spoken_features(
    samples: Samples, rng: np.random.Generator, recipe: AugmentRecipe, noises: Sequence[Samples], config: FeatureConfig
) -> Samples:
    """Augment a waveform, (samples,), and return its augmented features, (frames, mel_bins) float32."""
    mel = log_mel(augment(samples, rng, recipe, noises, config.sample_rate_hz), config)
    if recipe.warp:
        mel = warp_features(mel, 1 + rng.uniform(-recipe.warp, recipe.warp), config)
    return mask_features(mel, rng, recipe)


def change_speed(samples: Samples, factor: float, rate_hz: int) -> Samples:
    """Resample so that `samples` play faster by `factor`. Pitch and formants rise too."""
    return np.asarray(soxr.resample(samples, rate_hz * factor, rate_hz, quality="LQ"), dtype=np.float32)


def augment(
    samples: Samples, rng: np.random.Generator, recipe: AugmentRecipe, noises: Sequence[Samples], rate_hz: int
) -> Samples:
    """Apply band limit, room, microphone and noise, each by its chance, and change the level.

    Takes (samples,) float32 speech and returns as many samples within [-1, 1]. `noises` are recordings to cut from, or
    none.
    """
    out = samples
    if rng.random() < recipe.narrow:
        out = _narrow(out, rate_hz)
    echo = rng.random() < recipe.room
    limited = rng.random() < recipe.filter
    if (echo or limited) and out.size:
        out = _convolve(out, rng, rate_hz, echo=echo, limited=limited)
    if rng.random() < recipe.noise:
        level = np.sqrt(np.mean(samples**2)) if samples.any() else 0.02
        noise = sound(out.size, rng, noises, rate_hz)
        out = out + noise * (level * 10 ** (-rng.uniform(10, 35) / 20))
    gain = rng.uniform(-recipe.gain_db, recipe.gain_db / 3)
    louder: Samples = np.clip(out * 10 ** (gain / 20), -1, 1).astype(np.float32)
    return louder


def _narrow(samples: Samples, rate_hz: int) -> Samples:
    telephone = soxr.resample(samples, rate_hz, TELEPHONE_HZ, quality="LQ")
    out = np.zeros_like(samples)
    again = soxr.resample(telephone, TELEPHONE_HZ, rate_hz, quality="LQ")[: samples.size]
    out[: again.size] = again
    return out


def _convolve(samples: Samples, rng: np.random.Generator, rate_hz: int, *, echo: bool, limited: bool) -> Samples:
    length = -(-(samples.size + rate_hz // 2) // FRAME_SAMPLES_ROUND) * FRAME_SAMPLES_ROUND
    spectrum = np.fft.rfft(samples, length)
    if echo:
        spectrum *= np.fft.rfft(_room(rng, rate_hz), length)
    if limited:
        spectrum *= _microphone(np.fft.rfftfreq(length, 1 / rate_hz), rng)
    out: Samples = np.fft.irfft(spectrum, length)[: samples.size].astype(np.float32)
    return out


def _room(rng: np.random.Generator, rate_hz: int) -> Samples:
    rt60_s = rng.uniform(0.08, 0.6)
    count = int(rate_hz * min(rt60_s, 0.5))
    decay = np.exp(-6.9 * np.arange(count) / (rt60_s * rate_hz))  # 60 dB = ln(1000) = 6.9 nepers
    tail = rng.standard_normal(count) * decay
    tail *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0  # the direct sound
    room: Samples = tail.astype(np.float32)
    return room


def _microphone(frequency: npt.NDArray[np.floating], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    high = rng.choice([3400, 3700, 4000, 5500, 8000]) * rng.uniform(0.95, 1.05)
    steepness = rng.choice([16, 120])  # the slope of a microphone, or the steep edge of a lower sampling rate
    low = rng.choice([0.0, 50.0, 150.0, 300.0])
    gain = 1 / np.sqrt(1 + (frequency / high) ** steepness) / np.sqrt(1 + (low / np.maximum(frequency, 1)) ** 4)
    tilt_db = rng.uniform(-6, 6) * np.log2(np.maximum(frequency, 60) / 1000) / 3
    centre, width = rng.uniform(200, 4000), rng.uniform(0.3, 1.0)
    bump_db = rng.uniform(-8, 8) * np.exp(-0.5 * (np.log2(np.maximum(frequency, 60) / centre) / width) ** 2)
    shaped: npt.NDArray[np.float64] = gain * 10 ** ((tilt_db + bump_db) / 20)
    return shaped


def warp_features(mel: Samples, factor: float, config: FeatureConfig) -> Samples:
    """Move formants by `factor` and keep pitch and pace: each bin takes the value at its frequency / `factor`.

    Takes and returns (frames, mel_bins) float32. A factor above 1 is that of a shorter vocal tract.

    Source: vocal tract length perturbation, Jaitly and Hinton 2013, with interpolated log-mel bins in place of moved
    filters.
    """
    bins_hz = mel_centres(config)
    source = np.interp(bins_hz / factor, bins_hz, np.arange(bins_hz.size))  # fractional bins, the ends repeated
    low = np.minimum(source.astype(np.int64), bins_hz.size - 2)
    share = (source - low).astype(np.float32)
    warped: Samples = mel[:, low] * (1 - share) + mel[:, low + 1] * share
    return warped


def mask_features(mel: Samples, rng: np.random.Generator, recipe: AugmentRecipe) -> Samples:
    """SpecAugment: overwrite two random ranges of bins and two of frames with the mean of `mel`, (frames, mel_bins).

    Source: Park et al. 2019 (arXiv 1904.08779), section 2, without time warping.
    """
    frames, bins = mel.shape
    out = mel.copy()
    fill = mel.mean() if mel.size else 0.0
    for _ in range(2):
        width = rng.integers(recipe.mask_bins + 1)
        start = rng.integers(max(1, bins - width))
        out[:, start : start + width] = fill
        width = rng.integers(recipe.mask_frames + 1)
        start = rng.integers(max(1, frames - width))
        out[start : start + width] = fill
    return out
