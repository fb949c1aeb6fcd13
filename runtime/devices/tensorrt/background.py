"""Builds what takes minutes on a thread of its own, and hands it over when it is ready. Knows no engines."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Sequence

from bestow_edge.core.errors import BestowEdgeError
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.devices.tensorrt.building import BuildCancelledError, Step

logger = logging.getLogger(__name__)
Later = Callable[[Step], Sequence[Graph]]
"""Builds and opens graphs, telling how far it is."""


class BackgroundBuild:
    """One build. The process may end at any time: it is told to stop then, and waited for."""

    def __init__(self, later: Later, done: Callable[..., None]) -> None:
        """Begin.

        Args:
            later: what to do.
            done: called with the graphs, on the build's thread.
        """
        self.error: BestowEdgeError | None = None
        """Why there will be no engines; those that serve go on."""
        self.phase = ""
        """What the build is doing now."""
        self._later, self._done = later, done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bestow-edge-engines", daemon=True)
        atexit.register(self.stop)
        self._thread.start()

    @property
    def running(self) -> bool:
        """The build goes on."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the build, or some seconds; returns whether it has ended."""
        self._thread.join(timeout_s)
        return not self.running

    def stop(self) -> None:
        """Ask the build to stop, and wait until it has: TensorRT asks between its steps."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            graphs = self._later(self._step)
            self._done(*graphs)
            logger.info("TensorRT engines are ready; sessions take them at their next segment")
        except BuildCancelledError:
            logger.info("building TensorRT engines was stopped; what is complete is kept")
        except (BestowEdgeError, OSError) as error:  # OSError: the store's disk is full or read-only
            self.error = error if isinstance(error, BestowEdgeError) else BestowEdgeError(str(error))
            logger.warning("no TensorRT engines: %s", error)
        finally:
            atexit.unregister(self.stop)

    def _step(self, phase: str, done: int, total: int) -> bool:
        self.phase = f"{phase} {done}/{total}"
        return not self._stop.is_set()
