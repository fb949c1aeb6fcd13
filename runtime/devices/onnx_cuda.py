"""ONNX graphs in onnxruntime on a GPU: bound to the device's buffers, run on the device's stream.

If a provider lacks an operator, onnxruntime runs it on the CPU without a warning and copies its tensors to and fro.
Here that is an error unless the user allows it. Arithmetic on shapes is the exception: onnxruntime prefers the CPU.
Not yet run on hardware: tests run it on the CPU provider and replace the CUDA runtime.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from bestow_edge.core.errors import DeviceError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.devices.bindings import Bindings, OutputBlock, Prepared
from bestow_edge.runtime.devices.cuda import CudaArray, CudaDevice, CudaOptions
from bestow_edge.runtime.devices.onnx_cpu import import_onnxruntime, open_session, run_bound

logger = logging.getLogger(__name__)

CUDA_PROVIDER = "CUDAExecutionProvider"
DEVICE_TYPE = "cuda"  # onnxruntime's word
SHAPE_OPERATORS = frozenset(
    (
        *("Shape", "Size", "Gather", "GatherElements", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape"),
        *("Identity", "Constant", "ConstantOfShape", "Range", "Expand", "Tile", "Cast", "Add", "Sub", "Mul", "Div"),
        *("Mod", "Neg", "Abs", "Floor", "Ceil", "Min", "Max", "Equal", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Not", "And", "Or", "Where", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceSum"),
        *("MemcpyFromHost", "MemcpyToHost"),
    )
)
MOST_CUDA_GRAPHS = 32  # captures of one graph; further shapes and addresses run without a capture
MOST_PLACES = 1000  # for which runs are counted
RUNS_BEFORE_CAPTURE = 2  # with the same shapes and addresses: prefills and ends of streams come once
NO_CAPTURE = "-1"
Place = tuple[tuple[str, int, tuple[int, ...]], ...]  # name, address and shape of every tensor


def open_graphs(files: GraphFiles, name: DeviceName) -> Opened:
    """Load a bundle's graphs on a GPU, see `opening.open_graphs`; options are those of `open_gpu`."""
    return Opened(cuda_graphs(files, open_gpu(name)))


def cuda_graphs(files: GraphFiles, device: CudaDevice) -> dict[str, Graph]:
    """Load a bundle's graphs on an open GPU; errors are those of `CudaOnnxGraph`."""
    return {name: CudaOnnxGraph(path, spec, device, threads=files.threads) for name, path, spec in files}


def open_gpu(name: DeviceName) -> CudaDevice:
    """Open a GPU with the options `graphs`, `arena=NUMBER` and `allow-cpu`, which set the fields of `CudaOptions`.

    Raises:
        ConfigError: if an option is unknown.
        DeviceError: if there is no such GPU.
        MissingExtraError: if cuda-bindings is not installed.
    """
    arena_gb = None
    for word in name.options:
        key, _, value = word.partition("=")
        if key == "arena":
            try:
                arena_gb = float(value)
            except ValueError as error:
                raise name.error(f"arena {value!r} is no number") from error
        elif word not in ("graphs", "allow-cpu"):
            raise name.error(f"{word!r} is unknown")
    flags = {"cuda_graphs": "graphs" in name.options, "allow_cpu": "allow-cpu" in name.options}
    return CudaDevice(name.index, CudaOptions(arena_gb=arena_gb, **flags))


class CudaOnnxGraph:
    """A graph on a GPU, shared by all sessions."""

    def __init__(self, path: Path, spec: GraphSpec, device: CudaDevice, *, threads: int) -> None:
        """Load a graph and check the provider of each operator; CPU threads do the arithmetic on shapes.

        Raises:
            BundleError: if onnxruntime cannot load the file, has no CUDA provider or cannot start it.
            SignatureError: if its tensors differ from the contract.
            DeviceError: if operators would run on the CPU and that is not allowed.
        """
        self.spec, self.device = spec, device
        _preload()
        providers = [(CUDA_PROVIDER, provider_options(device))]
        self.session = open_session(path, spec, providers, threads=threads, record_placement=True)
        self.placement = placement(self.session)
        """Operators by provider."""
        self._check_placement(path)
        self._captured: dict[Place, int] = {}
        self._runs: Counter[Place] = Counter()

    def runner(self) -> CudaOnnxRunner:
        """Return a runner with bindings of its own."""
        return CudaOnnxRunner(self)

    def capture_of(self, place: Place) -> str:
        """Return the number of a run's capture, which onnxruntime records or replays; -1 for a run without one."""
        if place not in self._captured and len(self._captured) < MOST_CUDA_GRAPHS:
            if len(self._runs) >= MOST_PLACES:
                self._runs.clear()
            self._runs[place] += 1
            if self._runs[place] > RUNS_BEFORE_CAPTURE:
                self._captured[place] = len(self._captured) + 1
        return str(self._captured.get(place, NO_CAPTURE))

    def _check_placement(self, path: Path) -> None:
        elsewhere = sum((found for provider, found in self.placement.items() if provider != CUDA_PROVIDER), Counter())
        counts = [f"{count} {name}" for name, count in elsewhere.most_common() if name not in SHAPE_OPERATORS]
        if not counts:
            return
        operators = ", ".join(counts[:5])
        if not self.device.options.allow_cpu:
            raise DeviceError(
                f"{path.name}: {operators} would run on the CPU, for {CUDA_PROVIDER} has no kernel; export with "
                f"--target cuda, or allow it: --device {self.device.name},allow-cpu"
            )
        logger.warning("%s: %s run on the CPU", path.name, operators)


class CudaOnnxRunner:
    """One stream's bindings to a graph on a GPU."""

    def __init__(self, graph: CudaOnnxGraph) -> None:
        self._graph, self._device = graph, graph.device
        self._bindings = Bindings(graph.spec, graph.device)
        self._of_block: WeakKeyDictionary[OutputBlock, _Bound] = WeakKeyDictionary()

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """See `Runner`."""
        self._bindings.bind(tensors)

    def run(self) -> Mapping[str, Buffer]:
        """See `Runner`."""
        prepared = self._bindings.prepare()
        bound = self._of_block.get(prepared.block)
        if bound is None:
            bound = self._of_block[prepared.block] = _Bound(self._graph, prepared.block)
        bound.run(prepared)
        return prepared.outputs


class _Bound:
    """onnxruntime's binding to one block of outputs."""

    def __init__(self, graph: CudaOnnxGraph, block: OutputBlock) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        self._inputs: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._outputs = tuple((name, array.pointer, array.shape) for name, array in block.arrays.items())
        for name, array in block.arrays.items():
            self._binding.bind_output(name, *_described(array, graph.device))

    def run(self, prepared: Prepared) -> None:
        for name, array in prepared.inputs.items():
            place = array.pointer, array.shape  # not the array itself: a reference would keep its block from reuse
            if self._inputs.get(name) != place:
                self._binding.bind_input(name, *_described(array, self._graph.device))
                self._inputs[name] = place
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the stream orders the runs
        if self._graph.device.options.cuda_graphs:
            places = *((name, *place) for name, place in self._inputs.items()), *self._outputs
            options.add_run_config_entry("gpu_graph_id", self._graph.capture_of(places))
        with self._graph.device.lock:
            run_bound(self._graph.session, self._binding, self._graph.spec, options)


def provider_options(device: CudaDevice) -> dict[str, str]:
    """Return the CUDA provider's options."""
    values = {
        "device_id": str(device.index),
        "user_compute_stream": str(device.stream),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles: twice the memory for a large model
        "cudnn_conv_algo_search": "HEURISTIC",  # a search takes seconds for every new shape
        "enable_cuda_graph": str(int(device.options.cuda_graphs)),
    }
    if device.options.arena_gb is not None:
        values["gpu_mem_limit"] = str(round(device.options.arena_gb * 1e9))
    return values


def placement(session: Any) -> dict[str, Counter[str]]:  # Any: onnxruntime has no types
    """Return the operators that each provider runs, with their numbers."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def _described(array: CudaArray, device: CudaDevice) -> tuple[str, int, Any, tuple[int, ...], int]:  # Any: numpy's type
    return DEVICE_TYPE, device.index, array.dtype.type, array.shape, array.pointer


def _preload() -> None:
    """Load the CUDA libraries that pip installed, if any; onnxruntime prints the names of missing ones."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        import_onnxruntime().preload_dlls()
    for line in printed.getvalue().splitlines():
        logger.debug("onnxruntime: %s", line)
