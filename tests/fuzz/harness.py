"""Runs a target on damaged inputs in a process of its own, with limits of time and memory, and counts what comes.

An input is a number: `random.Random("TARGET:NUMBER")` makes it, so that every one can be made again.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from bestow_edge.core.errors import BestowEdgeError

Attempt = Callable[[Random, Path], None]
"""Makes an input with a source of chance, writes it into a folder and has it read."""
MOST_CPU_S, MOST_WALL_S = 10, 90
MOST_BYTES = 1 << 30
KINDS = ("accepted", "refused", "traceback", "hang", "memory", "crash")


def source(name: str, number: int) -> Random:
    """Return the chance of an input."""
    return Random(f"{name}:{number}")  # noqa: S311 - inputs that can be made again


def outcome(attempt: Attempt, random: Random) -> str:
    """Return "accepted" or "refused".

    Any other error than ours, and that of the system of which the command line makes a sentence, comes through.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            attempt(random, Path(folder))
        except (BestowEdgeError, OSError) as error:
            if not str(error):
                raise
            return "refused"
    return "accepted"


class Runner:
    """A process that tries inputs of one target. It is started anew where it hangs or crashes."""

    def __init__(self, make: Callable[[], Attempt], name: str) -> None:
        """Take the target; `make` prepares it in the process."""
        self._make, self._name = make, name
        self._process: multiprocessing.process.BaseProcess | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="fuzz-")

    def run(self, number: int) -> tuple[str, str]:
        """Return the kind of what came of an input, and the traceback if there is one."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            arguments = (self._make, self._name, self._scratch.name, theirs)
            self._process = context.Process(target=_work, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
            if not self._pipe.poll(600) or self._pipe.recv() != "ready":
                raise RuntimeError(f"{self._name}: the target cannot be prepared")
        self._pipe.send(number)
        began_s, waited_s = _cpu_s(self._process.pid), 0
        while not self._pipe.poll(1):
            waited_s += 1
            if waited_s > MOST_WALL_S or _cpu_s(self._process.pid) - began_s > MOST_CPU_S:
                self.close()
                return "hang", f"still busy after {waited_s} s"
        try:
            kind, text = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            return "crash", f"exit code {code}"
        return str(kind), str(text)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _work(make: Callable[[], Attempt], name: str, scratch: str, pipe: Connection) -> None:
    os.environ["XDG_CACHE_HOME"] = scratch
    attempt = make()
    resource.setrlimit(resource.RLIMIT_DATA, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ignored = list[str]()
    sys.unraisablehook = lambda raised: ignored.append("".join(traceback.format_exception(raised.exc_value)))
    pipe.send("ready")
    while True:
        number = pipe.recv()
        ignored.clear()
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        try:
            kind, text = outcome(attempt, source(name, number)), ""
        except BaseException:  # noqa: BLE001 - every kind is counted
            kind, text = "traceback", traceback.format_exc()
        if ignored:  # Python prints these and goes on
            kind, text = "traceback", "".join(ignored)
        if (used := _resident("VmHWM") - before) > MOST_BYTES:
            kind, text = "memory", f"{used >> 20} MB\n{text}"
        pipe.send((kind, text))


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
