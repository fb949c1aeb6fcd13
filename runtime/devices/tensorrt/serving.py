"""Graphs of a TensorRT device: engines where they are built, otherwise others of the same bundle until they are.

A damaged or refused engine is deleted and built again, once. It knows the order of things, not how each is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.errors import BundleError, DeviceError, EngineError
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt.background import Later
from bestow_edge.runtime.devices.tensorrt.building import Step
from bestow_edge.runtime.devices.tensorrt.engine_graph import open_engines
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, default_directory
from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines, Settings
from bestow_edge.runtime.devices.tensorrt.host import this_machine
from bestow_edge.runtime.devices.tensorrt.library import TensorRt, import_tensorrt

logger = logging.getLogger(__name__)
TRIES = 2  # an engine that was there may turn out to be refused
Interim = Callable[[], Sequence[Graph]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What serves a bundle."""

    graphs: Sequence[Graph]
    """Encoder, adapter, LLM."""
    later: Later | None = None
    """Builds better ones; None where these are the best."""


def serve_engines(
    directory: Path,
    manifest: BundleManifest,
    device: CudaDevice,
    interim: Sequence[tuple[str, Interim]],
    settings: Settings,
) -> Opened:
    """Return engines, or what serves until they are built.

    Args:
        directory: the bundle.
        manifest: its manifest.
        device: where engines run.
        interim: names of what may serve meanwhile, the fastest first, and how to open it.
        settings: how engines are, or were, built.

    Raises:
        EngineError: the bundle is not made for TensorRT, or TensorRT is too old.
        MissingExtraError: TensorRT is not installed.
        BundleError: nothing can serve meanwhile.
    """
    trt = import_tensorrt()
    store = EngineStore(default_directory())
    machine = this_machine(trt, device)
    engines = BundleEngines(directory, manifest, trt=trt, machine=machine, store=store, settings=settings)
    serving = _Serving(engines, device, trt)
    graphs = None if serving.engines.missing() else serving.load()
    return Opened(graphs) if graphs is not None else Opened(_meanwhile(interim), serving.build)


class _Serving:
    def __init__(self, engines: BundleEngines, device: CudaDevice, trt: TensorRt) -> None:
        self.engines = engines
        self._device, self._trt = device, trt

    def load(self) -> Sequence[Graph] | None:
        """Return the store's engines; None if one is missing, damaged or refused: what is no good is deleted."""
        plans = {}
        for name in self.engines.keys:
            if (plan := self.engines.load(name)) is None:
                return None
            plans[name] = plan
        specs, known = self.engines.manifest.specs, self.engines.profiles
        try:
            return list(open_engines(self._trt, plans, specs, known, self._device).values())
        except EngineError as error:
            logger.warning("%s", error)
            self.engines.forget()
            return None

    def build(self, step: Step) -> Sequence[Graph]:
        """Build what is missing and return all engines."""
        self._device.use()  # the thread's GPU is the one it builds for
        for _ in range(TRIES):
            for name in self.engines.missing():
                self.engines.build(name, step)
            if (graphs := self.load()) is not None:
                return graphs
        raise EngineError(
            f"TensorRT {self._trt.__version__} refuses engines that it has just built; its messages say why"
        )


def _meanwhile(interim: Sequence[tuple[str, Interim]]) -> Sequence[Graph]:
    for name, serve in interim[:-1]:
        try:
            graphs = serve()
        except (BundleError, DeviceError) as error:
            logger.info("%s cannot serve meanwhile: %s", name, error)
        else:
            logger.info("building TensorRT engines, which takes minutes; %s serves meanwhile", name)
            return graphs
    name, serve = interim[-1]
    logger.info("building TensorRT engines, which takes minutes; %s serves meanwhile", name)
    return serve()
