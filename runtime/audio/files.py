"""Waveforms from files, and resampling: audio becomes float32 mono at the model's rate."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError, MissingExtraError, SessionError

RESAMPLE_QUALITY = "HQ"  # soxr's 20-bit setting: stop band below 16-bit noise, delay below 20 ms


def read_audio(path: str | PathLike[str], sample_rate_hz: int) -> npt.NDArray[np.float32]:
    """Read a file as one waveform.

    Args:
        path: a wav, flac, ogg or mp3 file of any sampling rate and any number of channels.
        sample_rate_hz: rate of the result.

    Returns:
        Shape (samples,), nominally within -1 and 1; several channels are averaged.

    Raises:
        AudioError: if there is no such file, or it holds no usable audio.
        MissingExtraError: if soundfile is not installed, or the file needs resampling and soxr is not.
    """
    waveform, file_rate_hz = read_waveform(path)
    resampler = StreamResampler(file_rate_hz, sample_rate_hz)
    return np.concatenate([resampler.feed(waveform), resampler.finish()])


def read_waveform(
    path: str | PathLike[str], *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Read a file as `read_audio` does, or a part of it, but at its own rate.

    Args:
        path: the file.
        offset_s: start of the part, seconds.
        duration_s: length of the part, seconds; None = to the end.

    Returns:
        Shape (samples,), several channels averaged, and the rate in Hz.

    Raises:
        AudioError: if there is no such file, or it holds no usable audio there.
        MissingExtraError: if soundfile is not installed.
    """
    file = _checked_file(Path(path))
    channels, file_rate_hz = _decode(file, offset_s, duration_s)  # (samples, channels)
    if len(channels) == 0:
        raise AudioError(f"{file}: has no samples, expected at least one; record or export it again")
    bad = np.flatnonzero(~np.isfinite(channels).all(axis=1))
    if len(bad):
        raise AudioError(
            f"{file}: {len(bad)} of {len(channels)} samples are NaN or infinite, the first at "
            f"{bad[0] / file_rate_hz:.3f} s; expected finite samples; export the file again, for example as 16-bit wav"
        )
    return channels.mean(axis=1, dtype=np.float32), file_rate_hz


class StreamResampler:
    """Resamples a mono stream block by block; the result is the same bit for bit for blocks of any sizes.

    After `finish`, both methods raise a `SessionError`.
    """

    def __init__(self, source_rate_hz: int, target_rate_hz: int) -> None:
        """Start a stream; if the rates are equal, samples pass unchanged.

        Raises:
            AudioError: if a rate is not positive.
            MissingExtraError: if the rates differ and soxr is not installed.
        """
        if min(source_rate_hz, target_rate_hz) <= 0:
            got = f"{source_rate_hz} and {target_rate_hz} Hz"
            raise AudioError(f"resampling: sampling rates must be positive, got {got}")
        self._finished = False
        self._stream = None
        if source_rate_hz != target_rate_hz:
            self._stream = _import("soxr").ResampleStream(
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


def blocks(waveform: npt.NDArray[np.float32], block_samples: int) -> Iterator[npt.NDArray[np.float32]]:
    """Cut a waveform, shape (samples,), into views of `block_samples`; the last may be shorter.

    Raises:
        AudioError: if `block_samples` is not positive.
    """
    if block_samples < 1:
        raise AudioError(f"blocks: expected at least 1 sample per block, got {block_samples}")
    return (waveform[start : start + block_samples] for start in range(0, len(waveform), block_samples))


def _checked_file(path: Path) -> Path:
    """Return the path if it is a file that is not empty."""
    if path.is_dir():
        raise AudioError(f"{path}: is a directory, expected an audio file; name one file in it")
    if not path.exists():
        raise AudioError(f"{path}: no such file; expected an audio file; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes), expected audio; record or export it again")
    return path


def _decode(path: Path, offset_s: float, duration_s: float | None) -> tuple[npt.NDArray[np.float32], int]:
    """Return samples, shape (samples, channels), and the file's rate in Hz."""
    soundfile = _import("soundfile")
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz: int = file.samplerate
            if offset_s:
                file.seek(min(round(offset_s * rate_hz), file.frames))
            frames = -1 if duration_s is None else round(duration_s * rate_hz)
            samples: npt.NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)
    # soundfile raises TypeError for the suffix .raw: the file does not hold its rate and format.
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(
            f"{path}: cannot be read as audio ({error}); expected wav, flac, ogg or mp3; "
            "convert it, for example: ffmpeg -i INPUT OUTPUT.wav"
        ) from error
    return samples, rate_hz


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, extra="") from error


def check_block(samples: npt.NDArray[np.float32]) -> None:
    """Check that a block is audio.

    Raises:
        AudioError: if it is not one-dimensional float32, or holds NaN or infinity.
    """
    if samples.ndim != 1 or samples.dtype != np.float32:
        got = f"{samples.dtype} {samples.shape}"
        raise AudioError(f"audio block is {got}; expected float32 (samples,), mono at the model's rate")
    if not np.isfinite(samples).all():
        raise AudioError("audio block holds NaN or Inf; expected samples between -1 and 1")
