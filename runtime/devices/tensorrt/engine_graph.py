"""A TensorRT engine as a graph of the runtime: bound to the GPU's buffers, run on its stream.

All contexts of a bundle share one scratch buffer. That is safe because all runs go to one stream, one after the other.
A runner makes a context for each profile it needs, and passes shapes and addresses to TensorRT only when they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from bestow_edge.core.errors import EngineError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.devices.bindings import Bindings
from bestow_edge.runtime.devices.cuda import CudaArray, CudaDevice
from bestow_edge.runtime.devices.tensorrt.library import Contexts, Library, TensorRt, trt_logger
from bestow_edge.runtime.devices.tensorrt.profiles import Profile, choose


class EngineGraph:
    """An engine on a GPU, shared by all sessions."""

    def __init__(
        self,
        contexts: Contexts,
        spec: GraphSpec,
        known: Sequence[Profile],
        device: CudaDevice,
        *,
        scratch: CudaArray,
        lock: Lock,
    ) -> None:
        """Take what makes contexts of an engine that `open_engines` has checked, and its profiles in their order.

        Contexts share the scratch memory, which is as large as the engine needs or larger. The lock is held while a run
        that uses it is enqueued.
        """
        self.spec, self.device = spec, device
        self.profiles = tuple(known)
        """Sizes it supports."""
        self.lock, self._scratch = lock, scratch
        self._contexts = contexts

    def runner(self) -> EngineRunner:
        """Return a runner with contexts of its own."""
        return EngineRunner(self)

    def context(self, index: int) -> Any:  # Any: a class of the module
        """Return a new context for a profile; raise an `EngineError` if TensorRT refuses."""
        context = self._contexts()
        if context is None:
            raise EngineError(f"{self.spec.name}: TensorRT gives no context; the GPU may be out of memory")
        if self._scratch.nbytes:
            context.set_device_memory(self._scratch.pointer, self._scratch.nbytes)
        if not context.set_optimization_profile_async(index, self.device.stream):
            raise EngineError(f"{self.spec.name}: TensorRT refuses the profile {self.profiles[index].name}")
        return context


class EngineRunner:
    """One stream's bindings to an engine."""

    def __init__(self, graph: EngineGraph) -> None:
        self._graph = graph
        self._bindings = Bindings(graph.spec, graph.device)
        self._contexts: dict[int, _Bound] = {}  # by index of their profile

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """See `Runner`."""
        self._bindings.bind(tensors)

    def run(self) -> Mapping[str, Buffer]:
        """See `Runner`.

        Raises:
            EngineError: if the engine was not built for these sizes, or TensorRT refuses to run.
        """
        prepared = self._bindings.prepare()
        index = choose(self._graph.profiles, prepared.sizes, self._graph.spec.name)
        if index not in self._contexts:
            self._contexts[index] = _Bound(self._graph, index)
        self._contexts[index].run(prepared.inputs, prepared.outputs)
        return prepared.outputs


class _Bound:
    """A context, and the shapes and addresses it has."""

    def __init__(self, graph: EngineGraph, index: int) -> None:
        self._graph = graph
        self._context = graph.context(index)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def run(self, inputs: Mapping[str, CudaArray], outputs: Mapping[str, CudaArray]) -> None:
        context, name = self._context, self._graph.spec.name
        shapes = {key: array.shape for key, array in inputs.items()}
        if shapes != self._shapes:
            self._shapes = {}  # unknown until all are set: an error below leaves the context half changed
            for key, shape in shapes.items():
                if not context.set_input_shape(key, shape):
                    raise EngineError(f"{name}: TensorRT refuses {key} of shape {shape}")
            if missing := context.infer_shapes():
                raise EngineError(f"{name}: TensorRT misses shapes of {', '.join(missing)}")
            self._shapes = shapes
        for key, array in (*inputs.items(), *outputs.items()):
            if self._addresses.get(key) != array.pointer:
                if not context.set_tensor_address(key, array.pointer):
                    raise EngineError(f"{name}: TensorRT refuses the address of {key}")
                self._addresses[key] = array.pointer
        with self._graph.lock:
            if not context.execute_async_v3(self._graph.device.stream):
                raise EngineError(f"{name}: TensorRT could not run the engine; its messages say why")


def open_engines(
    library: Library,
    plans: Mapping[str, bytes],
    specs: Mapping[str, GraphSpec],
    known: Mapping[str, Sequence[Profile]],
    device: CudaDevice,
    *,
    kernels: Mapping[str, Path],
    graphs: bool = False,
) -> dict[str, Graph]:
    """Load serialized engines that share one scratch buffer; mappings are by graph.

    `kernels` are files for those that an RTX card compiles, `graphs` asks for CUDA graphs there.

    Raises:
        EngineError: if TensorRT cannot load one, or it does not fit its contract; the message begins with the graph.
    """
    trt = library.trt
    runtime = trt.Runtime(trt_logger(trt))
    engines = {}
    for name, plan in plans.items():
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{name}: {library} cannot load the engine; build it again")
        _check(trt, engine, specs[name], known[name])
        engines[name] = engine
    # Runs of all engines follow each other on the stream, so memory for the largest one is enough.
    num_bytes = max(engine.device_memory_size_v2 for engine in engines.values())
    scratch, lock = device.block({"": ((num_bytes,), np.dtype(np.uint8))})[""], Lock()
    return {
        name: EngineGraph(
            library.contexts(engine, device, kernels[name], graphs=graphs),
            specs[name],
            known[name],
            device,
            scratch=scratch,
            lock=lock,
        )
        for name, engine in engines.items()
    }


def _check(trt: TensorRt, engine: Any, spec: GraphSpec, known: Sequence[Profile]) -> None:  # Any: the module's class
    """Compare an engine's tensors and profiles with the contract."""
    expected = {tensor.name: (trt.TensorIOMode.INPUT, _type(trt, tensor.dtype)) for tensor in spec.fed}
    expected |= {tensor.name: (trt.TensorIOMode.OUTPUT, _type(trt, tensor.dtype)) for tensor in spec.returned}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    got = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
    if odd := [name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name)]:
        raise EngineError(f"{spec.name}: the engine's {min(odd)} is not the graph's; build it again")
    if engine.num_optimization_profiles != len(known):
        got_profiles = f"{engine.num_optimization_profiles} profiles, expected {len(known)}"
        raise EngineError(f"{spec.name}: the engine has {got_profiles}; build it again")
    if on_host := [name for name in spec.input_names if engine.is_shape_inference_io(name)]:
        raise EngineError(f"{spec.name}: shapes depend on what {on_host[0]} holds; export the checkpoint again")


def _type(trt: TensorRt, dtype: str) -> Any:  # Any: an enum of the module
    return {"float32": trt.DataType.FLOAT, "float16": trt.DataType.HALF, "int64": trt.DataType.INT64}[dtype]
