"""Devices and graphs by the name of a device. Knows every backend, and nothing else of them."""

from __future__ import annotations

from pathlib import Path

from bestow_edge.errors import ConfigError
from bestow_edge.graphs import GraphSpec
from bestow_edge.runtime.backend import CPU, Device, Graph
from bestow_edge.runtime.cuda import CudaDevice, CudaOptions
from bestow_edge.runtime.graph import OnnxGraph
from bestow_edge.runtime.onnx_cuda import CudaOnnxGraph

EXPECTED = "expected cpu, or cuda:0 with options such as cuda:0,graphs,arena=4,allow-cpu"


def open_device(name: str) -> Device:
    """Return a device.

    Args:
        name: `cpu`; or `cuda` and the number of a GPU, `cuda:0`, and behind it, after commas, `graphs` (CUDA graphs),
            `arena=4` (most memory of each graph's arena, 1e9 bytes) and `allow-cpu` (operators without a GPU kernel
            may run on the CPU).

    Raises:
        ConfigError: the name is none of these.
        DeviceError: there is no such GPU.
        MissingExtraError: cuda-bindings is not installed.
    """
    kind, *words = name.split(",")
    if name == CPU.name:
        return CPU
    backend, _, index = kind.partition(":")
    if backend != "cuda" or not (index or "0").isdecimal():
        raise ConfigError(f"device {name!r}: {EXPECTED}")
    return CudaDevice(int(index or 0), _options(name, words))


def _options(name: str, words: list[str]) -> CudaOptions:
    arena_gb = None
    for word in words:
        key, _, value = word.partition("=")
        if key == "arena":
            try:
                arena_gb = float(value)
            except ValueError as error:
                raise ConfigError(f"device {name!r}: arena {value!r} is no number; {EXPECTED}") from error
        elif word not in ("graphs", "allow-cpu"):
            raise ConfigError(f"device {name!r}: {word!r} is unknown; {EXPECTED}")
    return CudaOptions(arena_gb=arena_gb, cuda_graphs="graphs" in words, allow_cpu="allow-cpu" in words)


def open_graph(path: Path, spec: GraphSpec, device: Device, *, threads: int, mapped: bool = False) -> Graph:
    """Load a graph on a device.

    Args:
        path: the `.onnx` file.
        spec: its contract.
        device: where it is to run.
        threads: CPU threads within one operator.
        mapped: see `open_session`; on the CPU alone.

    Raises:
        BundleError: it cannot be loaded.
        SignatureError: its tensors differ from the contract.
        DeviceError: its operators would run elsewhere.
    """
    if isinstance(device, CudaDevice):
        return CudaOnnxGraph(path, spec, device, threads=threads)
    return OnnxGraph(path, spec, threads=threads, mapped=mapped)
