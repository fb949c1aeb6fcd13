"""Sound tracks of films, and recordings of phones: mp4, m4a, aac, mkv, webm and others, which libsndfile does not read.

PyAV decodes them (extra `media`), or else the program ffmpeg if it is installed.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError
from bestow_edge.runtime.audio.pipes import Pipe, pumped

if TYPE_CHECKING:
    from bestow_edge.runtime.audio.decoders import Decoder

ASF = bytes.fromhex("3026b275")
MATROSKA = bytes.fromhex("1a45dfa3")
MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}
PIPE_BUFFER = 4096  # bytes that PyAV waits for, a quarter of a second of speech
Frames = npt.NDArray[np.float32]


def container_of(head: bytes) -> str | None:
    """Return the kind of file that its first 16 bytes show, None if it is one that libsndfile may read."""
    if head[4:8] in MP4_BOXES:
        return "mp4"
    if head.startswith(MATROSKA):
        return "mkv or webm"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if head.startswith(ASF):
        return "wma"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "amr" if head.startswith(b"#!AMR") else None


def open_media(source: Path | Pipe, container: str) -> Decoder:
    """Open the sound track of a film or another file that libsndfile does not read.

    Args:
        source: a file, or a pipe from its first byte on.
        container: its kind, for messages.

    Raises:
        AudioError: if it has no sound, is damaged, or there is nothing to decode it with.
    """
    name = source.name if isinstance(source, Pipe) else str(source)
    library = _pyav()
    if library is not None:
        return PyAvDecoder(library, source, name)
    if (program := shutil.which("ffmpeg")) is not None:
        return FfmpegDecoder(program, source, name)
    raise AudioError(
        f"{name}: is {container}, which needs PyAV or ffmpeg, and neither is installed; "
        "run: pip install 'bestow-edge[media]'"
    )


def _pyav() -> ModuleType | None:
    try:
        return importlib.import_module("av")
    except ImportError:
        return None


class _Forwards:
    """A pipe without `seek`, so that PyAV does not move in it."""

    def __init__(self, pipe: Pipe) -> None:
        self.read = pipe.read_some


class PyAvDecoder:
    """A decoder of PyAV, for the best sound track; the methods are those of `Decoder`."""

    def __init__(self, library: ModuleType, source: Path | Pipe, name: str) -> None:
        """Open a file or a pipe; errors are those of `open_media`."""
        self._name, self._source, self._library = name, source, library
        with ExitStack() as opened:
            if isinstance(source, Pipe):
                opened.callback(source.close)
            # Always a file object: PyAV would take a path such as http:talk.mp4 for an address.
            file = _Forwards(source) if isinstance(source, Pipe) else opened.enter_context(source.open("rb"))
            with self._errors("cannot be read as audio"):
                self._container = opened.enter_context(library.open(file, "r", buffer_size=PIPE_BUFFER))
                track = self._container.streams.best("audio")
            if track is None:
                raise AudioError(f"{name}: has no sound track, expected one; choose a file with sound")
            length = self._container.duration
            self.length_s = length / library.time_base if length else None
            self.rate_hz: int = track.codec_context.sample_rate
            self._decoded = self._frames(track)
            self._waiting = next(self._decoded, np.empty((0, 1), np.float32))
            self._opened = opened.pop_all()

    def read(self, num_frames: int) -> Frames:
        """See `Decoder`."""
        parts, count = [self._waiting], len(self._waiting)
        while count < num_frames and (part := next(self._decoded, None)) is not None:
            parts.append(part)
            count += len(part)
        frames = np.concatenate(parts)
        self._waiting = frames[num_frames:]
        return frames[:num_frames]

    def seek(self, time_s: float) -> None:
        """See `Decoder`. It decodes what is before the time."""
        _read_up_to(time_s, self)

    def close(self) -> None:
        """See `Decoder`."""
        self._opened.close()

    def _frames(self, track: Any) -> Iterator[Frames]:  # Any: PyAV is an extra
        """Yield decoded frames, (frames, channels), all of the rate and the channels of the first."""
        resampler = None
        with self._errors("is damaged"):
            for decoded in self._container.decode(track):
                if resampler is None:
                    self.rate_hz = decoded.sample_rate  # the header of AAC may state half of it
                    resampler = self._library.AudioResampler("fltp", decoded.layout, decoded.sample_rate)
                for frame in resampler.resample(decoded):
                    yield frame.to_ndarray().T
            if isinstance(self._source, Pipe):
                self._source.check()

    @contextmanager
    def _errors(self, problem: str) -> Iterator[None]:
        try:
            yield
        except self._library.error.FFmpegError as error:
            if not isinstance(self._source, Pipe):
                remedy = "export it again"
            else:
                self._source.check()
                remedy = "give the file itself, not a pipe: it may say at its end where its sound is"
            raise AudioError(f"{self._name}: {problem} ({error.strerror}); {remedy}") from error


class FfmpegDecoder:
    """The program ffmpeg, which writes the best sound track as wav; the methods are those of `Decoder`."""

    def __init__(self, program: str, source: Path | Pipe, name: str) -> None:
        """Start the program; errors are those of `open_media`."""
        from bestow_edge.runtime.audio.decoders import open_pipe

        self._name = name
        piped = isinstance(source, Pipe)
        read = ["-v", "error", "-i", "pipe:0" if piped else f"file:{source}"]
        write = ["-vn", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        with ExitStack() as opened:
            if isinstance(source, Pipe):
                opened.callback(source.close)
            self._messages = opened.enter_context(tempfile.TemporaryFile())  # a pipe would fill up and stop the program
            feed = pumped(source) if isinstance(source, Pipe) else os.open(os.devnull, os.O_RDONLY)
            self._process = subprocess.Popen(  # noqa: S603 - the name of a file stands behind `file:`
                [program, *read, *write], stdin=feed, stdout=subprocess.PIPE, stderr=self._messages, bufsize=0
            )
            os.close(feed)  # the program has its own
            opened.callback(self._end_program)
            try:
                self._wave = open_pipe(Pipe(cast(FileIO, self._process.stdout), name))
            except AudioError:
                self._check_program()
                raise
            opened.callback(self._wave.close)
            self._opened = opened.pop_all()
        self.rate_hz = self._wave.rate_hz
        self.length_s: float | None = None

    def read(self, num_frames: int) -> Frames:
        """See `Decoder`."""
        frames = self._wave.read(num_frames)
        if len(frames) < num_frames:
            self._check_program()
        return frames

    def seek(self, time_s: float) -> None:
        """See `Decoder`. It decodes what is before the time."""
        _read_up_to(time_s, self)

    def close(self) -> None:
        """See `Decoder`."""
        self._opened.close()

    def _end_program(self) -> None:
        self._process.kill()
        self._process.wait()

    def _check_program(self) -> None:
        """Wait for the program to end, and raise an error if it failed."""
        if self._process.wait() != 0:
            self._messages.seek(0)
            lines = self._messages.read().decode(errors="replace").split("\n")
            problem = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
            raise AudioError(f"{self._name}: ffmpeg cannot decode it ({problem}); check the file")


def _read_up_to(time_s: float, decoder: PyAvDecoder | FfmpegDecoder) -> None:
    left = round(time_s * decoder.rate_hz)
    while left and (got := len(decoder.read(min(left, decoder.rate_hz)))):
        left -= got
