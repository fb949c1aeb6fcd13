"""Files that clients send: size, time and fields are bounded before anything is decoded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import python_multipart  # noqa: F401 - starlette parses forms with it; missing, it is reported here
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive

from bestow_edge.core.errors import RefusedError
from bestow_edge.core.files import temporary_directory
from bestow_edge.server.limits import Limits
from bestow_edge.server.problems import INTERNAL, TOO_BIG, WRONG_DATA

MOST_FIELDS, MOST_FIELD_BYTES = 24, 65536
LINGER_S = 3.0
MOST_NAME = 80  # letters of a file's name in a message
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file with the fields beside it."""

    path: Path
    """Where it lies until the end of the request."""
    name: str
    """The client's name of it, for messages alone."""
    fields: dict[str, tuple[str, ...]]


@asynccontextmanager
async def uploaded(http: HttpRequest, limits: Limits) -> AsyncIterator[Upload]:
    """Take the form of a request, in a folder that is deleted at the end.

    Raises:
        RefusedError: it is no form with one file, too large or too slow, or the server's disk takes no more.
    """
    if not http.headers.get("content-type", "").startswith("multipart/form-data"):
        got = http.headers.get("content-type", "none")
        raise _wrong(f"content type {got[:60]!r}: expected multipart/form-data with the field file", 415)
    stated = http.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limits.upload_mb * 1e6:
        await read_rest(http)
        raise _too_large(limits)
    bounded = HttpRequest(http.scope, _bounded(http, limits))
    try:
        async with asyncio.timeout(limits.upload_s):
            with _storing():
                form = await bounded.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES)
    except TimeoutError:
        raise RefusedError(f"the upload took more than {limits.upload_s:g} s", status=408, code=TOO_BIG) from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise _wrong("file: missing; expected an audio file in the field file")
        names = [name for name in form if name != "file"]
        fields = {name: tuple(value for value in form.getlist(name) if isinstance(value, str)) for name in names}
        with ExitStack() as stack:
            with _storing():
                path = stack.enter_context(temporary_directory("upload")) / "upload"
                await asyncio.to_thread(_save, file, path)
            yield Upload(path, _shown(file.filename or ""), fields)
    finally:
        await form.close()


async def read_rest(http: HttpRequest) -> None:
    """Read the rest of a refused upload for a moment: most clients read no answer before they have sent all."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(LINGER_S):
            async for _ in http.stream():
                pass


def _bounded(http: HttpRequest, limits: Limits) -> Receive:
    """Return a receiver of the body that refuses too many bytes, and a client that sends none."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(limits.idle_s):
                message = await http.receive()
        except TimeoutError:
            raise RefusedError(f"no byte of the upload for {limits.idle_s:g} s", status=408, code=TOO_BIG) from None
        received += len(message.get("body", b""))
        if received > limits.upload_mb * 1e6:
            await read_rest(http)
            raise _too_large(limits)
        return message

    return receive


@contextmanager
def _storing() -> Iterator[None]:
    """Refuse an upload that cannot be written: the disk is full, or the folder for temporary files read-only."""
    try:
        yield
    except OSError as error:
        logger.exception("an upload cannot be stored; free space or set TMPDIR")
        message = f"the server cannot store uploads now: {error.strerror}"
        raise RefusedError(message, status=507, code=INTERNAL) from error


def _save(file: UploadFile, path: Path) -> None:
    with path.open("wb") as saved:
        shutil.copyfileobj(file.file, saved)


def _shown(name: str) -> str:
    """Return the last part of a file's name in printable letters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in last)[:MOST_NAME] or "upload"


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(f"the upload is larger than {limits.upload_mb:g} MB", status=413, code=TOO_BIG)


def _wrong(message: str, status: int = 400) -> RefusedError:
    return RefusedError(message, status=status, code=WRONG_DATA)
