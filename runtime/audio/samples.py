"""Samples: which ones are audio, and channels that become one."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError

LOUDEST = 8.0
"""Largest sample, 18 dB above full scale. Decoders of mp3 and mixes in float go a little over 1, integers far over."""
SOUND = 1e-6  # power of a block that has sound, -60 dB relative to full scale
CANCELLED = 1e-3  # channels cancel each other if their mean has at most this share of their power, -30 dB

Floats = npt.NDArray[np.float32]
logger = logging.getLogger(__name__)


def check_block(samples: Floats) -> None:
    """Check that a block is audio.

    Raises:
        AudioError: if it is not a one-dimensional float32 array, holds NaN or infinity, or goes far beyond full scale.
    """
    expected = "expected a numpy array, float32 (samples,), mono at the model's rate"
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"audio block is {type(samples).__name__}; {expected}; convert it with numpy.asarray")
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise AudioError(f"audio block is {samples.dtype} {samples.shape}; {expected}")
    if _peak(samples) <= LOUDEST:
        return
    if not np.isfinite(samples).all():
        raise AudioError("audio block holds NaN or Inf; expected samples between -1 and 1")
    raise AudioError(f"audio block has {_too_loud(_peak(samples))}; divide the samples of int16 audio by 32768")


class Mixer:
    """Makes one channel of the blocks of a recording: the mean of all its channels.

    Where all sound so far would cancel out (one channel is the other upside down, as on a balanced cable that was
    taken for stereo), it is the first channel, and a warning is logged once.
    """

    def __init__(self, name: str, rate_hz: int) -> None:
        """Begin a recording of a name, which begins messages, and a rate."""
        self._name, self._rate_hz = name, rate_hz
        self._num_frames = 0
        self._power = self._mixed_power = 0.0  # of the blocks with sound, all channels and their mean
        self._warned = False

    def mix(self, channels: npt.NDArray[np.float32]) -> Floats:
        """Return the next frames as one channel.

        Args:
            channels: (frames, channels) float32, full scale 1.

        Returns:
            (frames,) float32.

        Raises:
            AudioError: if a sample is NaN, infinite or far beyond full scale.
        """
        if not _peak(channels) <= LOUDEST:
            raise AudioError(self._problem(channels))
        self._num_frames += len(channels)
        mixed: Floats = channels.mean(axis=1, dtype=np.float32)
        return mixed if channels.shape[1] == 1 or not len(channels) else self._heard(channels, mixed)

    def _heard(self, channels: npt.NDArray[np.float32], mixed: Floats) -> Floats:
        power = float(np.square(channels).mean())
        if power > SOUND:
            self._power += power
            self._mixed_power += float(np.square(mixed).mean())
        if self._mixed_power >= CANCELLED * self._power:
            return mixed
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: its channels cancel each other out (one is the other upside down), so the first one alone is "
                "heard; record it in mono, or export one channel",
                self._name,
            )
        return channels[:, 0].copy()

    def _problem(self, channels: npt.NDArray[np.float32]) -> str:
        bad = ~np.isfinite(channels).all(axis=1)
        if bad.any():
            time_s = (self._num_frames + int(bad.argmax())) / self._rate_hz
            return (
                f"{self._name}: the sample at {time_s:.3f} s is NaN or infinite; expected finite samples; "
                "export it again, for example as 16-bit wav"
            )
        loud = np.abs(channels).max(axis=1) > LOUDEST
        time_s = (self._num_frames + int(loud.argmax())) / self._rate_hz
        return (
            f"{self._name}: has {_too_loud(_peak(channels))} at {time_s:.3f} s; it holds integers as floating-point "
            "numbers: divide them by their full scale (32768 for 16 bits), or export it as 16-bit wav"
        )


def _peak(samples: npt.NDArray[Any]) -> float:  # Any: of any floating type
    """Return the largest absolute value, NaN if there is one."""
    return float(np.abs(samples).max(initial=0.0))


def _too_loud(peak: float) -> str:
    return f"a sample of {peak:g}, expected samples between -1 and 1 (at most {LOUDEST:g})"
