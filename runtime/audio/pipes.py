"""Bytes of audio that come once: from a pipe, a program, or a file whose header is unfinished."""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from typing import Protocol

from bestow_edge.core.errors import AudioError

MOST_KEPT = 1 << 20  # bytes of a header: titles and pictures may stand before the samples
PIECE = 1 << 16  # bytes of one read
ENDLESS = 1 << 62  # bytes of a file without a known end
UNKNOWN_SIZES = {0, 0xFFFFFFFF}  # of the samples of a wav that is being recorded or comes through a pipe
MOST_HEADER = 1 << 12  # bytes of a wav's format
EXTENSIBLE = 0xFFFE  # the tag of a wav stands further behind
SUBTYPES = {  # of samples that libsndfile reads without a header, by the tag and the bits of a wav
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}


class Readable(Protocol):
    """What bytes come from: a pipe or a file without a buffer, or bytes in memory."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read at least one byte and at most as many as fit; 0 at the end."""

    def close(self) -> None:
        """Give it back."""


class Pipe:
    """A file that is read forwards. Its first bytes can be read again, as libsndfile does to find the format.

    An error of the source ends the reading. libsndfile calls from C, where nothing can be raised; `check` raises it.
    """

    def __init__(self, source: Readable, name: str) -> None:
        """Take what to read from. `name` begins messages."""
        self.name = name
        self._source = source
        self._kept = bytearray()
        self._position = self._num_read = 0
        self._size: int | None = None
        self._error: OSError | None = None

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def check(self) -> None:
        """Raise the error that ended the reading, if there was one.

        Raises:
            AudioError: with the error of the system.
        """
        if self._error is not None:
            problem = self._error.strerror or self._error
            raise AudioError(f"{self.name}: cannot be read further ({problem}); try again") from self._error

    def begin_here(self, size: int | None) -> None:
        """Make the next byte the first one of the file, and `size` its number of bytes; None = all that come."""
        self._kept.clear()
        self._position, self._num_read, self._size = 0, 0, size

    def peek(self, size: int) -> bytes:
        """Return the first bytes, fewer if there are fewer. They can still be read."""
        self.seek(0)
        found = self.read(size)
        self.seek(0)
        return found

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def read_some(self, size: int = PIECE) -> bytes:
        """Read the bytes that are there, at most `size`; wait if there are none, and return none at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self._read_into(memoryview(buffer))])

    def skip(self, size: int) -> None:
        """Read `size` bytes and drop them."""
        while size and (got := len(self.read(min(size, PIECE)))):
            size -= got

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer, less of it at the end. Return the number of bytes."""
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view) and (got := self._read_into(view[filled:])):
            filled += got
        return filled

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move and return the position, 0 or more. Bytes can be read from the next one and from the first ones."""
        end = ENDLESS if self._size is None else self._size
        self._position = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence] + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def _read_into(self, view: memoryview) -> int:
        if self._position == self._num_read:
            got = self._read_new(view)
        else:
            again = self._kept[self._position : self._position + len(view)]
            got = len(again)
            view[:got] = again
        self._position += got
        return got

    def _read_new(self, view: memoryview) -> int:
        if self._size is not None:
            view = view[: self._size - self._num_read]
        if not view or self._error is not None:
            return 0
        try:
            got = self._source.readinto(view) or 0
        except OSError as error:
            self._error = error
            return 0
        except ValueError:  # closed by the reader, who needs no more
            return 0
        if self._num_read == len(self._kept) < MOST_KEPT:
            self._kept += view[:got]
        self._num_read += got
        return got


def pumped(pipe: Pipe) -> int:
    """Return the descriptor of a pipe of the system, into which a thread writes a file from its first byte on."""
    reader, writer = os.pipe()
    pipe.seek(0)

    def pump() -> None:
        try:
            with os.fdopen(writer, "wb", buffering=0) as sink:
                while content := pipe.read_some():
                    sink.write(content)
        except BrokenPipeError:
            return  # the reader needs no more

    threading.Thread(target=pump, name="bestow-edge pipe", daemon=True).start()
    return reader


@dataclass(frozen=True, slots=True)
class Wave:
    """The samples of a wav, as its header describes them."""

    rate_hz: int
    channels: int
    subtype: str
    """libsndfile's name of the samples' format."""
    size: int | None
    """Bytes of samples; None = the header was written before they were known."""


def read_wave_header(pipe: Pipe) -> Wave | None:
    """Read the header of a wav up to its first sample; None if it is no wav or its samples need libsndfile's reader."""
    pipe.seek(0)
    begin = pipe.read(12)
    if begin[:4] not in {b"RIFF", b"RF64"} or begin[8:] != b"WAVE":
        return None
    form, size64 = b"", 0
    while len(head := pipe.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            size = size64 if begin[:4] == b"RF64" else size
            whole = int.from_bytes(begin[4:8], "little")
            empty = size == 0 and pipe.tell() - 8 < whole < 0xFFFFFFFF  # something else follows
            return _wave(form, None if size in UNKNOWN_SIZES and not empty else size)
        if name in {b"fmt ", b"ds64"} and size <= MOST_HEADER:
            content = pipe.read(size + size % 2)
            form = content if name == b"fmt " else form
            size64 = int.from_bytes(content[8:16], "little") if name == b"ds64" else size64
        else:
            pipe.skip(size + size % 2)
    return None


def _wave(form: bytes, size: int | None) -> Wave | None:
    if len(form) < 16:
        return None
    tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    subtype = SUBTYPES.get((tag, bits))
    if subtype is None or frame_bytes * 8 != channels * bits:
        return None
    return Wave(rate_hz, channels, subtype, size)
