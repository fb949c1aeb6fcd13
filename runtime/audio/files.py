"""Audio of files and pipes: float32 mono at the model's rate, whole or block by block in constant memory."""

from __future__ import annotations

import contextlib
import io
import math
import queue
import threading
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import AudioError
from bestow_edge.runtime.audio.decoders import Decoder, open_bytes, open_file, open_pipe
from bestow_edge.runtime.audio.pipes import Pipe, Readable
from bestow_edge.runtime.audio.resampling import StreamResampler
from bestow_edge.runtime.audio.samples import Mixer

FILE_BLOCK_S, PIPE_BLOCK_S = 1.0, 0.08  # of a file that is there, and of one that comes: an encoder step
WAITING_BLOCKS = 250  # 20 s that a pipe may be ahead of the computing
POLL_S = 0.1  # interval at which a waiting thread checks for its end

Samples = npt.NDArray[np.float32]


class Audio:
    """A recording that is decoded while it is read, in a `with` block. Iteration yields its blocks, (samples,) float32.

    All blocks together are the recording as `read_audio` returns it.
    """

    def __init__(self, decoder: Decoder, name: str, sample_rate_hz: int | None, block_s: float) -> None:
        """Take an open decoder; `open_audio` makes one."""
        self._decoder, self.name = decoder, name
        self.rate_hz = sample_rate_hz or decoder.rate_hz
        """Rate of the blocks, Hz."""
        self._resampler = StreamResampler(decoder.rate_hz, self.rate_hz)
        self._block_frames = math.ceil(block_s * decoder.rate_hz)

    @property
    def length_s(self) -> float | None:
        """Length as the header states it, seconds; None if it is not known."""
        return self._decoder.length_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.close()

    def __iter__(self) -> Iterator[Samples]:
        """Yield the blocks from here to the end.

        Raises:
            AudioError: the recording has no samples, is damaged, or has samples that are not audio.
        """
        mixer, empty = Mixer(self.name, self._decoder.rate_hz), True
        while len(frames := self._decoder.read(self._block_frames)):
            empty = False
            if len(block := self._resampler.feed(mixer.mix(frames))):
                yield block
        if empty:
            raise AudioError(f"{self.name}: has no samples, expected at least one; record or export it again")
        if len(block := self._resampler.finish()):
            yield block

    def seek(self, time_s: float) -> None:
        """Go to a time, before the first block is read.

        Raises:
            AudioError: the recording is damaged.
        """
        self._decoder.seek(time_s)

    def read(self, most: int | None = None) -> Samples:
        """Return the recording from here on, (samples,), at most a number of samples; errors are those of iterating."""
        return _joined(self, most)


class PipedAudio:
    """Audio that a thread reads and decodes while it comes; used as `Audio` is.

    `stop` ends it early, from any thread or from a signal handler: the blocks so far can still be read.
    """

    length_s = None
    """Not known before the end."""

    def __init__(self, pipe: Pipe, sample_rate_hz: int | None, raw_rate_hz: int | None) -> None:
        """Take a pipe from its first byte on; the `with` block begins to read."""
        self.name = pipe.name
        self.rate_hz = sample_rate_hz or 0
        """Rate of the blocks, Hz; known from the first block on."""
        self._pipe, self._raw_rate_hz = pipe, raw_rate_hz
        self._blocks: queue.Queue[Samples | BaseException | None] = queue.Queue(WAITING_BLOCKS)
        self._stopped = self._closed = False

    def __enter__(self) -> Self:
        # A thread, because libsndfile waits for a pipe in C, where Ctrl-C does not reach Python.
        threading.Thread(target=self._run, name="bestow-edge audio", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True

    def __iter__(self) -> Iterator[Samples]:
        """Yield the blocks as they come; errors are those of `Audio` and of opening."""
        while True:
            try:
                item = self._blocks.get(timeout=POLL_S)  # short, so that Ctrl-C works on every platform
            except queue.Empty:
                if self._stopped:
                    return
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def read(self) -> Samples:
        """Return all of the audio, (samples,); errors are those of iterating."""
        return _joined(self, None)

    def stop(self) -> None:
        """End the audio with what has come."""
        self._stopped = True

    def _run(self) -> None:
        """Decode in the thread: blocks, then None or the error that ended them."""
        try:
            decoder = open_pipe(self._pipe, raw_rate_hz=self._raw_rate_hz)
            with Audio(decoder, self.name, self.rate_hz or None, PIPE_BLOCK_S) as audio:
                self.rate_hz = audio.rate_hz
                for block in audio:
                    self._put(block)
                    if self._stopped or self._closed:
                        break
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - the reader raises it again
            self._put(error)

    def _put(self, item: Samples | BaseException | None) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                return self._blocks.put(item, timeout=POLL_S)
        return None


def open_audio(
    source: str | PathLike[str] | io.BytesIO | Readable,
    sample_rate_hz: int | None = None,
    *,
    name: str | None = None,
    raw_rate_hz: int | None = None,
) -> Audio | PipedAudio:
    """Open audio to read it block by block: memory does not grow with its length.

        with be.open_audio("talk.wav", model.sample_rate_hz) as audio:
            for event in be.stream(model.session(source="en"), audio): print(event.text, end="")

    Args:
        source: a file, a named pipe, or a binary file without a buffer that is read once, such as
            `open(0, "rb", buffering=0)`. Its content, not its name, shows its kind: wav, flac, ogg, mp3, and with the
            extra `media` or ffmpeg mp4, m4a, aac, mkv, webm and others. Any rate from 4 to 768 kHz; several channels
            are averaged.
        sample_rate_hz: rate of the blocks; None = that of the recording.
        name: begins messages; None = the path.
        raw_rate_hz: rate of 16-bit little-endian mono samples without a header; None = the header says all.

    Raises:
        AudioError: there is no such file, or it is no audio; of a pipe, the iteration raises it.
        MissingExtraError: soundfile is not installed, or soxr is not and the rate differs.
    """
    if isinstance(source, io.BytesIO):
        name = name or "bytes"
        return Audio(open_bytes(source, name), name, sample_rate_hz, FILE_BLOCK_S)
    if not isinstance(source, (str, PathLike)):
        return PipedAudio(Pipe(source, name or "pipe"), sample_rate_hz, raw_rate_hz)
    path = Path(source)
    name = name or str(path)
    if path.is_dir():
        raise AudioError(f"{name}: is a directory, expected an audio file; name one file in it")
    if not path.exists():
        raise AudioError(f"{name}: no such file; expected an audio file; check the path")
    if path.is_file():
        return Audio(open_file(path, raw_rate_hz=raw_rate_hz), name, sample_rate_hz, FILE_BLOCK_S)
    return PipedAudio(Pipe(path.open("rb", buffering=0), name), sample_rate_hz, raw_rate_hz)


def read_audio(path: str | PathLike[str], sample_rate_hz: int) -> Samples:
    """Read a file as one waveform.

    Args:
        path: a file as for `open_audio`.
        sample_rate_hz: rate of the result.

    Returns:
        Shape (samples,), nominally within -1 and 1; several channels are averaged.

    Raises:
        AudioError: if there is no such file, or it holds no usable audio.
        MissingExtraError: if soundfile is not installed, or the file needs resampling and soxr is not.
    """
    with open_audio(path, sample_rate_hz) as audio:
        return audio.read()


def read_waveform(
    path: str | PathLike[str], *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[Samples, int]:
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
    with open_recording(Path(path)) as audio:
        if offset_s:
            audio.seek(offset_s)
        return audio.read(None if duration_s is None else round(duration_s * audio.rate_hz)), audio.rate_hz


def open_recording(source: Path | io.BytesIO, name: str | None = None) -> Audio:
    """Open a recording of which parts can be read, at its own rate: see `open_audio`.

    Raises:
        AudioError: it is no audio, or a pipe.
        MissingExtraError: soundfile is not installed.
    """
    audio = open_audio(source, name=name)
    if isinstance(audio, PipedAudio):
        raise AudioError(f"{audio.name}: is a pipe, expected a file, of which parts can be read; write it to a file")
    return audio


def blocks(waveform: Samples, block_samples: int) -> Iterator[Samples]:
    """Cut a waveform, shape (samples,), into views of `block_samples`; the last may be shorter.

    Raises:
        AudioError: if `block_samples` is not positive.
    """
    if block_samples < 1:
        raise AudioError(f"blocks: expected at least 1 sample per block, got {block_samples}")
    return (waveform[start : start + block_samples] for start in range(0, len(waveform), block_samples))


def steps(parts: Iterable[Samples], step_samples: int) -> Iterator[Samples]:
    """Put blocks of any sizes together, and cut them into steps of `step_samples`; the last may be shorter."""
    waiting: list[Samples] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        if count >= step_samples:
            samples = np.concatenate(waiting)
            end = count - count % step_samples
            yield from blocks(samples[:end], step_samples)
            waiting, count = [samples[end:]], count - end
    if count:
        yield np.concatenate(waiting)


def _joined(parts: Iterable[Samples], most: int | None) -> Samples:
    """Return blocks as one, (samples,), at most a number of samples."""
    memory, sample_bytes = io.BytesIO(), np.dtype(np.float32).itemsize  # it grows without a second copy beside it
    for part in parts:
        memory.write(part.data)
        if most is not None and memory.tell() >= most * sample_bytes:
            break
    return np.frombuffer(memory.getbuffer(), np.float32)[:most] if memory.tell() else np.empty(0, np.float32)
