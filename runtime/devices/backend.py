"""A backend's input and output: a device's name and graph files; the graphs that serve and an upgrade to others."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.base import Graphs

logger = logging.getLogger(__name__)
Step = Callable[[str, int, int], bool]
"""Gets a phase, its finished steps and the number of its steps; returns whether to go on."""


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device's name, such as `cuda:1,graphs`, in parts."""

    text: str
    """The whole name."""
    backend: str
    """The word before the colon."""
    index: int
    """The number behind the colon; 0 if there is none."""
    options: tuple[str, ...]
    """The words behind the commas."""
    expected: str
    """All valid names, for messages."""

    def error(self, problem: str = "") -> ConfigError:
        """Return an error about this name that lists the valid ones."""
        return ConfigError(f"device {self.text!r}: {problem}{'; ' if problem else ''}expected {self.expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFiles:
    """The graphs of a bundle on disk, and how to load them."""

    directory: Path
    manifest: BundleManifest
    threads: int = 0
    """CPU threads within one operator; 0 = one for each core."""
    mapped: Collection[str] = ()
    """Names of graphs whose weights stay in their files, see `open_session`; on the CPU alone."""

    def __iter__(self) -> Iterator[tuple[str, Path, GraphSpec]]:
        """Yield name, `.onnx` file and contract of each graph."""
        for name, spec in self.manifest.specs.items():
            yield name, self.directory / self.manifest.graphs[name].file, spec


class Upgrade:
    """Makes better graphs on a thread of its own while others serve. When the process ends, it is stopped."""

    def __init__(self, name: str, make: Callable[[Step], Graphs]) -> None:
        """Take the name of the better graphs, for messages, and what makes them; `begin` starts it.

        `make` raises a `BestowEdgeError` soon after its step returned False.
        """
        self.error: BestowEdgeError | None = None
        """Why there will be no better graphs; the others go on serving."""
        self._name, self._make = name, make
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the work goes on."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, take: Callable[[Graphs], None]) -> None:
        """Start the work; `take` gets the graphs, on the thread of the work."""
        self._thread = threading.Thread(target=self._run, args=(take,), name="bestow-edge-upgrade", daemon=True)
        atexit.register(self.stop)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the work, at most some seconds, and return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.running

    def stop(self) -> None:
        """Stop the work at its next step and wait for its end."""
        self._stop.set()
        self.wait()

    def _run(self, take: Callable[[Graphs], None]) -> None:
        try:
            take(self._make(lambda *_: not self._stop.is_set()))
            logger.info("%s are ready; sessions take them at their next segment", self._name)
        except (BestowEdgeError, OSError) as error:  # OSError: a disk is full or read-only
            if self._stop.is_set():
                logger.info("building %s was stopped; what is complete is kept", self._name)
                return
            self.error = error if isinstance(error, BestowEdgeError) else BestowEdgeError(str(error))
            logger.warning("no %s: %s", self._name, error)
        finally:
            atexit.unregister(self.stop)


@dataclass(frozen=True, slots=True)
class Opened:
    """The graphs that serve a bundle now."""

    graphs: Graphs
    upgrade: Upgrade | None = None
    """Makes better graphs; None if these are the best."""
