"""One ONNX graph in onnxruntime, checked against its GraphSpec. The only file that imports onnxruntime.

Arrays are bound by pointer, never copied on the way in: a buffer that is written to after it was bound is seen by the
next run. It knows names, dtypes and axes, not what a graph computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.errors import BundleError, MissingExtraError, SignatureError
from bestow_edge.graphs import GraphSpec, TensorSpec

Array = npt.NDArray[Any]  # Any: float32 and int64 tensors pass through here alike
ONNX_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime() -> Any:  # Any: onnxruntime has no types
    """Import onnxruntime.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


class Graph:
    """A loaded graph, shared by all sessions; running it changes nothing in it."""

    def __init__(self, path: Path, spec: GraphSpec, *, device: str, threads: int, mapped: bool = False) -> None:
        """Load and check a graph.

        Args:
            path: the `.onnx` file.
            spec: its contract.
            device: `cpu` or `cuda`.
            threads: threads within one operator, 0 = one for each core.
            mapped: leave weights in their file rather than in an order that is faster to read; for graphs larger than
                memory that run a few times.

        Raises:
            BundleError: onnxruntime cannot load the file, or has no such device.
            SignatureError: its tensors differ from the contract.
        """
        self.spec = spec
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors: warnings about shapes help nobody at run time
        # Threads wait for the next operator by spinning, which saves up to a fifth of a step, and sleep between runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_mem_pattern = False  # a plan of memory for each shape seen: 12 MB for nothing
        if mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
        provider = PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise BundleError(f"device {device}: this onnxruntime has no {provider}; see bestow-edge doctor")
        try:
            self.session = ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's errors share no other base
            raise BundleError(f"{path}: onnxruntime cannot load it: {str(error).splitlines()[0]:.200}") from error
        if provider not in self.session.get_providers():
            raise BundleError(f"device {device}: {provider} did not start; see bestow-edge doctor")
        self._check(path)

    def _check(self, path: Path) -> None:
        expected_in = (*self.spec.inputs, *self.spec.states)
        got_in = {item.name: item for item in self.session.get_inputs()}
        got_out = [item.name for item in self.session.get_outputs()]
        if list(got_in) != self.spec.input_names or got_out != self.spec.output_names:
            odd = set(got_in) ^ set(self.spec.input_names) | set(got_out) ^ set(self.spec.output_names)
            names = ", ".join(sorted(odd)) or "their order"
            raise SignatureError(f"{path.name}: tensors differ from the manifest's model: {names}; export again")
        for tensor in expected_in:
            item = got_in[tensor.name]
            if item.type != ONNX_TYPES[tensor.dtype] or not _fits(tensor, item.shape):
                got = f"{item.type} {item.shape}"
                raise SignatureError(f"{path.name}: got {got} where the manifest's model says {tensor}; export again")

    def runner(self) -> GraphRunner:
        """Return a runner with bindings of its own."""
        return GraphRunner(self)


class GraphRunner:
    """One stream's bindings to a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        self._bound: dict[str, Array] = {}  # keeps bound memory alive

    def bind(self, arrays: Mapping[str, Array]) -> None:
        """Bind inputs by pointer; they stay bound until they are bound anew."""
        for name, array in arrays.items():
            self._binding.bind_cpu_input(name, array)
            self._bound[name] = array

    def run(self) -> dict[str, Array]:
        """Run the graph on what is bound and return new arrays by name."""
        for name in self._graph.spec.output_names:
            self._binding.bind_output(name, "cpu")
        self._graph.session.run_with_iobinding(self._binding)
        values = self._binding.get_outputs()
        return {name: value.numpy() for name, value in zip(self._graph.spec.output_names, values, strict=True)}


def _fits(tensor: TensorSpec, shape: list[Any]) -> bool:  # Any: int or the name of a dynamic axis
    if len(shape) != len(tensor.axes):
        return False
    return all(
        isinstance(axis, str) or not isinstance(size, int) or size == axis
        for axis, size in zip(tensor.axes, shape, strict=True)
    )


def zeros(tensor: TensorSpec, **sizes: int) -> Array:
    """Return an array of a tensor's shape, its named axes given, batch 1."""
    shape = [axis if isinstance(axis, int) else {"batch": 1, **sizes}[axis] for axis in tensor.axes]
    return np.zeros(shape, dtype=tensor.dtype)
