"""Sampling rates: which ones audio may have, and resampling of a stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError, SessionError
from bestow_edge.runtime.audio.libraries import import_library

RESAMPLE_QUALITY = "HQ"  # soxr's 20-bit setting: stop band below 16-bit noise, delay below 20 ms
RATES_HZ = range(4_000, 768_001)
"""Rates that audio may have. Nobody understands speech below, no device records beyond."""


def check_rate(rate_hz: int, where: str) -> None:
    """Refuse a rate that no recording of speech has, before it becomes memory or time.

    Raises:
        AudioError: if it is not one of `RATES_HZ`; `where` begins the message.
    """
    if rate_hz not in RATES_HZ:
        raise AudioError(
            f"{where}: sampling rate of {rate_hz} Hz, expected {RATES_HZ.start} to {RATES_HZ.stop - 1} Hz; "
            "its header is damaged: export it again"
        )


class StreamResampler:
    """Resamples a mono stream block by block; the result is the same bit for bit for blocks of any sizes.

    After `finish`, both methods raise a `SessionError`.
    """

    def __init__(self, source_rate_hz: int, target_rate_hz: int) -> None:
        """Start a stream; if the rates are equal, samples pass unchanged.

        Raises:
            AudioError: if a rate is not one of `RATES_HZ`.
            MissingExtraError: if the rates differ and soxr is not installed.
        """
        for rate_hz in (source_rate_hz, target_rate_hz):
            check_rate(rate_hz, "resampling")
        self._finished = False
        self._stream = None
        if source_rate_hz != target_rate_hz:
            self._stream = import_library("soxr").ResampleStream(
                source_rate_hz, target_rate_hz, 1, dtype="float32", quality=RESAMPLE_QUALITY
            )

    def feed(self, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Take the next samples, (samples,) of any length, and return the resampled ones that are ready."""
        return self._process(block, last=False)

    def finish(self) -> npt.NDArray[np.float32]:
        """End the stream and return the samples held back so far, shape (samples,)."""
        samples = self._process(np.empty(0, np.float32), last=True)
        self._finished = True
        return samples

    def _process(self, block: npt.NDArray[np.float32], *, last: bool) -> npt.NDArray[np.float32]:
        if self._finished:
            raise SessionError("resampler: the stream was finished; start a new StreamResampler")
        block = np.ascontiguousarray(block, np.float32)
        if self._stream is None:
            return block
        samples: npt.NDArray[np.float32] = self._stream.resample_chunk(block, last=last)
        return samples
