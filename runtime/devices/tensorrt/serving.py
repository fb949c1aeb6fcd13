"""The devices `tensorrt` and `rtx`: a bundle's engines, or graphs in onnxruntime that serve while engines are built.

Engines for RTX may lie in the bundle. Others lie in the user's store; one that is damaged or that TensorRT refuses is
deleted and built again, once. Whatever does not fit is replaced by what is built from the bundle's ONNX graphs, so that
the text is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from bestow_edge.core.errors import BundleError, DeviceError, EngineError
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened, Step, Upgrade
from bestow_edge.runtime.devices.base import Graphs
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cpu import cpu_graphs
from bestow_edge.runtime.devices.onnx_cuda import cuda_graphs
from bestow_edge.runtime.devices.tensorrt.ahead import capability_of, problem_of
from bestow_edge.runtime.devices.tensorrt.engine_graph import open_engines
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, default_directory
from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines, Settings, parse_settings
from bestow_edge.runtime.devices.tensorrt.library import import_library, this_machine

RTX_WORDS = ("graphs", "own")  # CUDA graphs, which TensorRT for RTX captures itself; no engines of the bundle
logger = logging.getLogger(__name__)
TRIES = 2  # TensorRT may refuse an engine of the store


def open_graphs(files: GraphFiles, name: DeviceName) -> Opened:
    """Return engines, or interim graphs and the build of engines, see `opening.open_graphs`.

    The options are those of `parse_settings`, and `RTX_WORDS` for RTX.
    """
    words = [word for word in name.options if name.backend != "rtx" or word not in RTX_WORDS]
    settings, device = parse_settings(words), CudaDevice(name.index)
    serving = EngineServing(files, device, settings, kind=name.backend, graphs="graphs" in name.options)
    if (engines := serving.load() if "own" in name.options else serving.load_any()) is not None:
        return Opened(engines)
    return Opened(open_interim(files, device), Upgrade("TensorRT engines", serving.build))


class EngineServing:
    """The engines of a bundle on a GPU, in the bundle or in the user's store."""

    def __init__(
        self, files: GraphFiles, device: CudaDevice, settings: Settings, *, kind: str, graphs: bool = False
    ) -> None:
        """Find the library and the store.

        Raises:
            EngineError: if the bundle is not made for engines, or the library is too old or has no such GPU.
            MissingExtraError: if the library is not installed.
        """
        self._files, self._device, self._settings, self._graphs = files, device, settings, graphs
        self._library = library = import_library(kind)
        self._capability = capability_of(device) if library.rtx else ""
        machine, store = this_machine(library, device), EngineStore(default_directory())
        built_for = (self._capability,)
        self._engines = BundleEngines(files, library, machine, store, settings, capabilities=built_for)

    def load_any(self) -> Graphs | None:
        """Return the engines of the bundle as graphs, else those of the store; None if neither fits."""
        if not self._library.rtx or not self._files.manifest.engines:
            return self.load()
        names = self._files.manifest.specs
        found = (problem_of(self._files, name, self._library, self._settings, self._capability) for name in names)
        problem = next((problem for problem in found if problem), "")
        if not problem:
            files = self._files.manifest.engines
            try:
                return self._open({name: (self._files.directory / files[name].file).read_bytes() for name in names})
            except EngineError as error:
                problem = str(error)
        logger.warning("engines of the bundle are not used: %s", problem)
        return self.load()

    def load(self) -> Graphs | None:
        """Return the engines of the store as graphs; None if one is missing, damaged or refused, which is deleted."""
        if self._engines.missing():
            return None
        plans = self._engines.load()
        if len(plans) < len(self._engines.keys):
            return None
        try:
            return self._open(plans)
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
        raise EngineError(f"{self._library} refuses engines that it has just built; its messages say why")

    def _open(self, plans: Mapping[str, bytes]) -> Graphs:
        engines = self._engines
        kernels = {name: engines.store.cache(key.name) for name, key in engines.keys.items()}
        specs, known, graphs = engines.manifest.specs, engines.profiles, self._graphs
        return open_engines(self._library, plans, specs, known, self._device, kernels=kernels, graphs=graphs)


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
