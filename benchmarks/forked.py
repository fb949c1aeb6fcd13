"""Commands in processes forked from this one, which are killed after a while. For faults.py; Linux."""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

LONGEST_S = 300


def run(
    command: Callable[[], object], folder: Path, *, kill_s: float | None = None, limit: int | None = None
) -> tuple[int, str]:
    """Run a command in a process forked from this one, which has imported what takes long.

    Args:
        command: what to do there; it may exit.
        folder: its directory, also of its caches and temporary files.
        kill_s: seconds until kill -9.
        limit: most bytes of a file that it writes.

    Returns:
        Exit code and stderr.
    """
    for name in ("cache", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        _become(command, folder, writing, limit)
    os.close(writing)
    os.set_blocking(reading, False)
    ends_s, err, killed = time.monotonic() + (kill_s or LONGEST_S), b"", False
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        err += _read(reading)
        if not killed and time.monotonic() > ends_s:
            os.killpg(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.005)
    err += _read(reading)
    os.close(reading)
    if kill_s is None and killed:
        err += b"still running"
    return os.waitstatus_to_exitcode(ended[1]), err.decode(errors="replace")


def _read(descriptor: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, 1 << 20)
    return b""


def _become(command: Callable[[], object], folder: Path, err: int, limit: int | None) -> NoReturn:
    """Turn a forked process into a command's."""
    code: object = 70
    try:
        os.setpgid(0, 0)  # kill -9 is for its own processes too
        os.chdir(folder)
        os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        tempfile.tempdir = None
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores the signal: the write fails
        try:
            code = command()
        except SystemExit as end:
            code = end.code
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - the parent sees it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def cli(*arguments: object) -> Callable[[], object]:
    """Return what runs `bestow-edge` with arguments."""
    from bestow_edge.cli.main import main as program

    return lambda: program([str(argument) for argument in arguments])
