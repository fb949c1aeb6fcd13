"""The device `tensorrt`: a bundle's engines, or graphs in onnxruntime that serve while the engines are built.

If an engine is damaged or TensorRT refuses it, it is deleted and built again, once.
"""

from __future__ import annotations

import logging

from bestow_edge.core.errors import BundleError, DeviceError, EngineError
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened, Step, Upgrade
from bestow_edge.runtime.devices.base import Graphs
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cpu import cpu_graphs
from bestow_edge.runtime.devices.onnx_cuda import cuda_graphs
from bestow_edge.runtime.devices.tensorrt.engine_graph import open_engines
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, default_directory
from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines, Settings, parse_settings
from bestow_edge.runtime.devices.tensorrt.library import import_tensorrt, this_machine

logger = logging.getLogger(__name__)
TRIES = 2  # TensorRT may refuse an engine of the store


def open_graphs(files: GraphFiles, name: DeviceName) -> Opened:
    """Return engines, or interim graphs and the build of engines, see `opening.open_graphs`.

    The options are those of `parse_settings`.
    """
    settings, device = parse_settings(name.options), CudaDevice(name.index)
    serving = EngineServing(files, device, settings)
    if (engines := serving.load()) is not None:
        return Opened(engines)
    return Opened(open_interim(files, device), Upgrade("TensorRT engines", serving.build))


class EngineServing:
    """The engines of a bundle on a GPU, in the user's store."""

    def __init__(self, files: GraphFiles, device: CudaDevice, settings: Settings) -> None:
        """Find TensorRT and the store.

        Raises:
            EngineError: if the bundle is not made for TensorRT, or TensorRT is too old.
            MissingExtraError: if TensorRT is not installed.
        """
        self._device, self._trt = device, import_tensorrt()
        machine, store = this_machine(self._trt, device), EngineStore(default_directory())
        self._engines = BundleEngines(files, self._trt, machine, store, settings)

    def load(self) -> Graphs | None:
        """Return the engines as graphs; None if one is missing, damaged or refused. Unusable ones are deleted."""
        if self._engines.missing():
            return None
        plans = self._engines.load()
        if len(plans) < len(self._engines.keys):
            return None
        try:
            return open_engines(self._trt, plans, self._engines.manifest.specs, self._engines.profiles, self._device)
        except EngineError as error:
            logger.warning("%s", error)
            self._engines.forget()
            return None

    def build(self, step: Step) -> Graphs:
        """Build the missing engines and return all of them as graphs."""
        self._device.use()  # TensorRT builds for the GPU of the calling thread
        for _ in range(TRIES):
            for name in self._engines.missing():
                self._engines.build(name, step)
            if (graphs := self.load()) is not None:
                return graphs
        raise EngineError(
            f"TensorRT {self._trt.__version__} refuses engines that it has just built; its messages say why"
        )


def open_interim(files: GraphFiles, device: CudaDevice) -> Graphs:
    """Return graphs that serve while engines are built: onnxruntime's on the GPU or, if that fails, on the CPU."""
    name = "onnxruntime's CUDA provider"
    try:
        graphs = cuda_graphs(files, device)
    except (BundleError, DeviceError) as error:
        logger.info("%s cannot serve meanwhile: %s", name, error)
        name, graphs = "the CPU", cpu_graphs(files)
    logger.info("building TensorRT engines, which takes minutes; %s serves meanwhile", name)
    return graphs
