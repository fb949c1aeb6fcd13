"""One ONNX graph in onnxruntime, checked against its GraphSpec: sessions for every provider, and the CPU's graphs.

Input arrays are bound by pointer and never copied. The only file that imports onnxruntime.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import BundleError, GraphError, MissingExtraError, SignatureError
from bestow_edge.core.tensors import GraphSpec, TensorSpec
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened
from bestow_edge.runtime.devices.base import CPU, Array, Buffer, Graph

ONNX_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)"}
CPU_PROVIDER = "CPUExecutionProvider"
Provider = tuple[str, dict[str, str]]  # name and options


def open_graphs(files: GraphFiles, name: DeviceName) -> Opened:
    """Load a bundle's graphs on the CPU, see `opening.open_graphs`; there are no options."""
    if name.text != CPU.name:
        raise name.error()
    return Opened(cpu_graphs(files))


def cpu_graphs(files: GraphFiles) -> dict[str, Graph]:
    """Load a bundle's graphs on the CPU; errors are those of `open_session`."""
    return {
        name: OnnxGraph(path, spec, threads=files.threads, mapped=name in files.mapped) for name, path, spec in files
    }


def import_onnxruntime() -> Any:  # Any: onnxruntime has no types
    """Import onnxruntime without its telemetry; raise a `MissingExtraError` if it is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 keeps a number of the machine and sends it with events
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


def open_session(
    path: Path,
    spec: GraphSpec,
    providers: Sequence[Provider],
    *,
    threads: int,
    mapped: bool = False,
    record_placement: bool = False,
) -> Any:  # Any: onnxruntime has no types
    """Load a graph and check it.

    The preferred provider comes first. `threads` work within one operator, 0 = one for each core. With `mapped`,
    weights stay in their file instead of being copied to an order that is faster to read: for graphs that are larger
    than memory and run a few times. With `record_placement`, the session knows which provider runs which operators.

    Raises:
        BundleError: if onnxruntime cannot load the file, has no such provider or cannot start it.
        SignatureError: if its tensors differ from the contract.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: a user can do nothing about warnings on shapes
    # Threads spin while they wait for the next operator, which saves up to a fifth of a step. Between runs they sleep.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # x64 processors without VNNI add int8 products in 16 bits, which overflow; with this they are exact there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.enable_mem_pattern = False  # a plan of memory for each shape: 12 MB and no gain
    if record_placement:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if mapped:
        options.add_session_config_entry("session.disable_prepacking", "1")
    names = [name for name, _ in providers]
    if missing := [name for name in names if name not in ort.get_available_providers()]:
        raise BundleError(f"this onnxruntime has no {', '.join(missing)}; see bestow-edge doctor")
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no other base
        raise BundleError(f"{path}: onnxruntime cannot load it: {str(error).splitlines()[0]:.200}") from error
    if missing := [name for name in names if name not in session.get_providers()]:
        raise BundleError(f"{', '.join(missing)} did not start; see bestow-edge doctor")
    _check(session, path, spec)
    return session


def run_bound(session: Any, binding: Any, spec: GraphSpec, options: Any = None) -> None:  # Any: as above
    """Run a graph on what is bound.

    Raises:
        GraphError: if onnxruntime fails.
    """
    with graph_errors(spec):
        session.run_with_iobinding(binding, options)


@contextmanager
def graph_errors(spec: GraphSpec) -> Iterator[None]:
    """Turn errors of onnxruntime into a `GraphError` that names the graph."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors share no other base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise GraphError(
            f"{spec.name} failed while it ran ({reason:.300}); check the bundle: bestow-edge verify"
        ) from error


class OnnxGraph:
    """A graph on the CPU."""

    device = CPU

    def __init__(self, path: Path, spec: GraphSpec, *, threads: int, mapped: bool = False) -> None:
        """Load and check a graph; arguments and errors are those of `open_session`."""
        self.spec = spec
        self.session = open_session(path, spec, [(CPU_PROVIDER, {})], threads=threads, mapped=mapped)

    def runner(self) -> OnnxRunner:
        """Return a runner with bindings of its own."""
        return OnnxRunner(self)


class OnnxRunner:
    """One stream's bindings to a graph on the CPU."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        self._bound: dict[str, Buffer] = {}  # keeps the bound memory alive

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """See `Runner`."""
        with graph_errors(self._graph.spec):
            for name, array in tensors.items():
                self._binding.bind_cpu_input(name, array)
                self._bound[name] = array

    def run(self) -> dict[str, Array]:
        """Run the graph on the bound inputs and return new arrays by name."""
        for name in self._graph.spec.output_names:
            self._binding.bind_output(name, "cpu")
        run_bound(self._graph.session, self._binding, self._graph.spec)
        values = self._binding.get_outputs()
        return {name: value.numpy() for name, value in zip(self._graph.spec.output_names, values, strict=True)}


def _check(session: Any, path: Path, spec: GraphSpec) -> None:  # Any: onnxruntime has no types
    got_in = {item.name: item for item in session.get_inputs()}
    got_out = [item.name for item in session.get_outputs()]
    if list(got_in) != spec.input_names or got_out != spec.output_names:
        odd = set(got_in) ^ set(spec.input_names) | set(got_out) ^ set(spec.output_names)
        names = ", ".join(sorted(odd)) or "their order"
        raise SignatureError(f"{path.name}: tensors differ from the manifest's model: {names}; export again")
    returned = dict(zip(spec.returned, session.get_outputs(), strict=True))
    for tensor, item in {**{tensor: got_in[tensor.name] for tensor in spec.fed}, **returned}.items():
        if item.type != ONNX_TYPES[tensor.dtype] or (item.shape and not _fits(tensor, item.shape)):
            got = f"{item.type} {item.shape}"
            raise SignatureError(f"{path.name}: got {got} where the manifest's model says {tensor}; export again")


def _fits(tensor: TensorSpec, shape: list[Any]) -> bool:  # Any: int or the name of a dynamic axis
    if len(shape) != len(tensor.axes):
        return False
    return all(
        isinstance(axis, str) or not isinstance(size, int) or size == axis
        for axis, size in zip(tensor.axes, shape, strict=True)
    )
