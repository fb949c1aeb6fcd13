"""Decoders: bytes of any kind of audio become frames at the rate of the recording, from first to last.

libsndfile reads wav, flac, ogg, mp3 and others; `bestow_edge.runtime.audio.media` reads films and their sound tracks.
No length that a header states is believed: frames are read until there are none.
"""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError, BestowEdgeError
from bestow_edge.runtime.audio.libraries import import_library
from bestow_edge.runtime.audio.media import container_of, open_media
from bestow_edge.runtime.audio.pipes import Pipe, pumped, read_wave_header
from bestow_edge.runtime.audio.resampling import check_rate

HEAD = 16  # bytes that show the kind of a file
LONGEST_S = 1e6  # 11 days: a header that states more is damaged
LACKING_S = 1.0  # a recording that ends so much before the length of its header is not whole
UNREADABLE = "expected wav, flac, ogg or mp3; convert it, for example: ffmpeg -i INPUT OUTPUT.wav"
Frames = npt.NDArray[np.float32]
logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """Frames of a recording, from first to last."""

    rate_hz: int
    """Frames a second."""
    length_s: float | None
    """Length as the header states it, to show progress; None = unknown."""

    def read(self, num_frames: int) -> Frames:
        """Return the next frames, (frames, channels), full scale 1: fewer at the end, none behind it.

        Raises:
            AudioError: the recording is damaged there, or its source fails.
        """

    def seek(self, time_s: float) -> None:
        """Go to a time, or to the end if the recording is shorter."""

    def close(self) -> None:
        """Close the file."""


class SoundFile:
    """A decoder of libsndfile."""

    def __init__(  # Any: of each kind
        self, source: bytes | str | BinaryIO | Pipe, name: str, *, pump: bool = False, **raw: Any
    ) -> None:
        """Open a file.

        Args:
            source: path or file object.
            name: begins messages.
            pump: read a pipe through one of the system, not as a file object.
            raw: format of samples without a header, by soundfile's names.

        Raises:
            AudioError: if it cannot be decoded.
            MissingExtraError: if soundfile is not installed.
        """
        library = import_library("soundfile")
        self.name, self._source = name, source
        # soundfile raises TypeError for the suffix .raw: the file does not hold its rate and format.
        self._errors = library.LibsndfileError, TypeError
        try:
            self._file = library.SoundFile(pumped(source) if pump and isinstance(source, Pipe) else source, **raw)
        except self._errors as error:
            self._check_source()
            raise AudioError(f"{name}: cannot be read as audio ({_reason(error)}); {UNREADABLE}") from error
        self.rate_hz: int = self._file.samplerate
        self.length_s: float | None = None
        self._num_read = 0
        # soundfile moves to the place where it is after each block; decoders lose their state by that.
        self._file.seekable = lambda: False

    def read(self, num_frames: int) -> Frames:
        """See `Decoder`."""
        try:
            frames: Frames = self._file.read(num_frames, dtype="float32", always_2d=True)
        except self._errors as error:
            self._check_source()
            raise AudioError(
                f"{self.name}: is damaged {self._time_s:.2f} s from its start ({_reason(error)}); export it again"
            ) from error
        self._check_source()
        self._num_read += len(frames)
        if not len(frames) and self.length_s is not None and self._time_s < self.length_s - LACKING_S:
            problem = "%s: ends after %.1f s, its header says %.1f s; the rest is missing, export it again"
            logger.warning(problem, self.name, self._time_s, self.length_s)
        return frames

    def seek(self, time_s: float) -> None:
        """See `Decoder`."""
        try:
            self._num_read = self._file.seek(min(round(time_s * self.rate_hz), self._file.frames))
        except self._errors as error:
            raise AudioError(f"{self.name}: cannot be read from {time_s:g} s on ({_reason(error)})") from error

    def close(self) -> None:
        """See `Decoder`."""
        self._file.close()
        if isinstance(self._source, Pipe):
            self._source.close()

    def believe_length(self) -> None:
        """Take the length from the header of a file that is there.

        Raises:
            AudioError: if no recording is so long.
        """
        length_s = self._file.frames / self.rate_hz
        if length_s > LONGEST_S:
            raise AudioError(
                f"{self.name}: its header says {length_s:.0f} s, expected less than {LONGEST_S:.0f} s (11 days); "
                "its header is damaged: export it again"
            )
        self.length_s = length_s or None

    @property
    def _time_s(self) -> float:
        return self._num_read / self.rate_hz

    def _check_source(self) -> None:
        if isinstance(self._source, Pipe):
            self._source.check()


def open_file(path: Path, *, raw_rate_hz: int | None = None) -> Decoder:
    """Open a file of the disk.

    Args:
        path: the file.
        raw_rate_hz: its rate, if it holds 16-bit mono samples without a header; None = the header says it.

    Raises:
        AudioError: if there is no such file, or it is no audio.
        MissingExtraError: if a library for it is not installed.
    """
    name = str(path)
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD)
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if not head:
        raise AudioError(f"{name}: is empty (0 bytes), expected audio; record or export it again")
    encoded = os.fsencode(path) if os.name == "posix" else name
    if raw_rate_hz is not None:
        return _of_length(SoundFile(encoded, name, **_raw(raw_rate_hz, name)))
    if (container := container_of(head)) is not None:
        return _checked(open_media(path, container), name)
    decoder = _of_length(SoundFile(encoded, name))
    if decoder.length_s is None and head[:4] in {b"RIFF", b"RF64"}:
        decoder.close()
        return open_pipe(Pipe(path.open("rb", buffering=0), name))  # its recording was never finished
    return decoder


def _of_length(decoder: SoundFile) -> SoundFile:
    check_rate(decoder.rate_hz, decoder.name)
    decoder.believe_length()
    return decoder


def open_bytes(content: io.BytesIO, name: str) -> Decoder:
    """Open audio in memory; `name` begins messages and errors are those of `open_file`."""
    return _of_length(SoundFile(_Memory(content.getvalue()), name))


class _Memory(io.BytesIO):
    """Bytes that stay where they are if libsndfile asks for a place before the first, as a file does."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(offset, whence) if offset >= 0 or whence != os.SEEK_SET else self.tell()


def open_pipe(pipe: Pipe, *, raw_rate_hz: int | None = None) -> Decoder:
    """Open audio that is decoded while it comes; errors are those of `open_file`. The decoder closes the pipe.

    Args:
        pipe: what comes.
        raw_rate_hz: see `open_file`.
    """
    try:
        return _checked(_open_pipe(pipe, raw_rate_hz), pipe.name)
    except BestowEdgeError:
        pipe.close()
        raise


def _open_pipe(pipe: Pipe, raw_rate_hz: int | None) -> Decoder:
    if raw_rate_hz is not None:
        return SoundFile(pipe, pipe.name, **_raw(raw_rate_hz, pipe.name))
    head = pipe.peek(HEAD)
    pipe.check()
    if not head:
        raise AudioError(f"{pipe.name}: nothing came, expected audio; check the program that writes it")
    if (container := container_of(head)) is not None:
        return open_media(pipe, container)
    if (wave := read_wave_header(pipe)) is not None:
        pipe.begin_here(wave.size)
        return SoundFile(pipe, pipe.name, **_raw(wave.rate_hz, pipe.name, wave.channels, wave.subtype))
    pipe.seek(0)
    # libsndfile reads flac from a file object alone, and the rest from a pipe of the system without moving in it.
    return SoundFile(pipe, pipe.name, pump=not head.startswith(b"fLaC"))


def _raw(rate_hz: int, name: str, channels: int = 1, subtype: str = "PCM_16") -> dict[str, Any]:  # Any: mixed types
    check_rate(rate_hz, name)
    form = {"format": "RAW", "subtype": subtype, "endian": "LITTLE" if subtype != "PCM_U8" else "FILE"}
    return {"samplerate": rate_hz, "channels": channels, **form}


def _checked(decoder: Decoder, name: str) -> Decoder:
    check_rate(decoder.rate_hz, name)
    return decoder


def _reason(error: Exception) -> str:
    """Return libsndfile's own words, without the name of the file."""
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
