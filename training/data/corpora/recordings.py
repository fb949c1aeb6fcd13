"""Recordings as waveforms at the model's rate: whole files, windows of files, byte ranges of shards.

An unusable recording is an `AudioError`.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
from filelock import FileLock, Timeout

from bestow_edge.core.errors import AudioError, ManifestError
from bestow_edge.core.utterances import Utterance
from bestow_edge.runtime.audio.files import open_recording

logger = logging.getLogger(__name__)
Samples = npt.NDArray[np.float32]
OPEN_SHARDS = 32
SPARE_SAMPLES = 16  # durations are rounded to 1 ms
LACKING_S = 0.5  # a recording that is shorter than its duration by more than this is damaged


class Recordings:
    """Reads the recordings of utterances."""

    def __init__(self, rate_hz: int, *, cache: Path | None = None, kept: int = 0) -> None:
        """Store the rate of the waveforms and the cache.

        The cache is a local directory that shards are copied to before they are read. It keeps `kept` copies; 0 = all.
        """
        self.rate_hz = rate_hz
        self.cache, self.kept = cache, kept
        self._shards: OrderedDict[Path, int] = OrderedDict()  # open files, least recently used first

    def __getstate__(self) -> dict[str, object]:
        """Leave out open files: another process opens its own."""
        return self.__dict__ | {"_shards": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._shards.values():
            os.close(descriptor)

    def read(self, item: Utterance) -> Samples:
        """Return the waveform of an utterance, shape (samples,).

        Raises:
            AudioError: if the file is missing, not audio, shorter than the utterance, or has NaN or infinite samples.
        """
        file = self._bytes(item) if item.audio_bytes else item.path
        samples, rate_hz, _ = decode(file, item)
        if rate_hz != self.rate_hz:
            samples = np.asarray(soxr.resample(samples, rate_hz, self.rate_hz, quality="HQ"), dtype=np.float32)
        return samples

    def _bytes(self, item: Utterance) -> io.BytesIO:
        first, count = item.audio_bytes or (0, 0)
        try:
            content = os.pread(self._open(item.path), count, first)
        except OSError as error:
            raise AudioError(f"{item.path}: cannot be read ({error.strerror})") from error
        if len(content) != count:
            raise AudioError(f"{item.path}: ends within a recording; copy the shard again")
        return io.BytesIO(content)

    def _open(self, shard: Path) -> int:
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        while len(self._shards) >= OPEN_SHARDS:
            os.close(self._shards.popitem(last=False)[1])
        opened = os.open(shard, os.O_RDONLY) if self.cache is None else open_copy(shard, self.cache, self.kept)
        self._shards[shard] = opened
        return self._shards[shard]


class BadRecordings:
    """Counts the unreadable recordings of a source."""

    def __init__(self, source: str, most: int) -> None:
        """Count from 0 up to `most`, the number of bad recordings that is allowed."""
        self.source, self.most = source, most
        self._found: set[str] = set()

    def add(self, where: str, error: AudioError) -> None:
        """Log and count an unreadable recording. Each counts once. `where` is its file and line.

        Raises:
            ManifestError: if there are too many.
        """
        if where in self._found:
            return
        self._found.add(where)
        if len(self._found) > self.most:
            hint = f"more than max_bad = {self.most} recordings of source {self.source} cannot be read"
            raise ManifestError(f"{where}: {error}; {hint}; `bestow-edge data check` lists them") from error
        logger.warning("%s: %s; skipped, %d of at most %d", where, error, len(self._found), self.most)


def decode(file: Path | io.BytesIO, item: Utterance, *, lacking_s: float = LACKING_S) -> tuple[Samples, int, float]:
    """Decode an utterance at the rate of its file, and average its channels.

    Args:
        file: the file or its content.
        item: the utterance. Its offset and duration are the part of the file to decode.
        lacking_s: seconds by which the file may be too short.

    Returns:
        Samples, shape (samples,); their rate in Hz; and the seconds of the file after the offset.

    Raises:
        AudioError: if the file is missing, not audio, shorter than the utterance, or has NaN or infinite samples.
    """
    if isinstance(file, Path) and not file.is_file():
        raise AudioError(f"{item.path}: no such file; expected an audio file")
    with open_recording(file, str(item.path)) as audio:
        if item.offset_s:
            audio.seek(item.offset_s)
        samples = audio.read(round(item.duration_s * audio.rate_hz) + SPARE_SAMPLES)
        length_s = len(samples) / audio.rate_hz if audio.length_s is None else audio.length_s - item.offset_s
    if len(samples) < (item.duration_s - lacking_s) * audio.rate_hz:
        has = f"{len(samples) / audio.rate_hz:.2f} s from {item.offset_s:g} s on"
        raise AudioError(f"{item.path}: has {has}, the manifest says {item.duration_s:g} s")
    return samples, audio.rate_hz, length_s


def at_least_ten_frames(waveform: Samples, rate_hz: int) -> Samples:
    """Return (samples,) padded with silence to at least ten frames, 100 ms."""
    return np.pad(waveform, (0, max(0, rate_hz // 10 - waveform.size)))


def open_copy(shard: Path, cache: Path, kept: int) -> int:
    """Open the local copy of a shard, which is made if it is missing, and return its file descriptor.

    A lock makes other processes wait for the copy. The newest `kept` copies stay, 0 = all. A deleted copy remains
    readable for processes that opened it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    local = cache / f"{shard.parent.name}-{shard.name}"
    with FileLock(local.with_suffix(".lock")):
        if not local.exists() or local.stat().st_size != shard.stat().st_size:
            partial = local.with_suffix(".partial")
            shutil.copyfile(shard, partial)
            partial.replace(local)
        descriptor = os.open(local, os.O_RDONLY)
    for old in sorted(cache.glob("*.tar"), key=_modified_ns)[:-kept] if kept else []:
        with suppress(Timeout), FileLock(old.with_suffix(".lock"), timeout=0):  # busy: another process is opening it
            old.unlink(missing_ok=True)
    return descriptor


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
