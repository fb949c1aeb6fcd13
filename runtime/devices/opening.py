"""Devices and graphs by the name of a device. Knows every backend, and nothing else of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.base import CPU, Device, Graph
from bestow_edge.runtime.devices.cuda import CudaDevice, CudaOptions
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph
from bestow_edge.runtime.devices.onnx_cuda import CudaOnnxGraph
from bestow_edge.runtime.devices.tensorrt.engines import parse_settings
from bestow_edge.runtime.devices.tensorrt.provider import open_provider
from bestow_edge.runtime.devices.tensorrt.serving import Opened, serve_engines

ENGINES, PROVIDER = "tensorrt", "onnxruntime-tensorrt"
EXPECTED = f"expected cpu, {ENGINES}:0, {PROVIDER}:0, or cuda:0 with options such as cuda:0,graphs,arena=4,allow-cpu"


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


def open_graphs(
    directory: Path, manifest: BundleManifest, device: str, *, threads: int, mapped: Collection[str] = ()
) -> Opened:
    """Load the graphs of a bundle.

    Args:
        directory: the bundle.
        manifest: its manifest.
        device: a name for `open_device`; or `tensorrt` and the number of a GPU, `tensorrt:0`, for engines, or
            `onnxruntime-tensorrt:0` for those that onnxruntime builds; and behind it, after commas, what they are
            built with, see `parse_settings`.
        threads: CPU threads within one operator.
        mapped: names of graphs whose weights stay in their files, see `open_session`.

    Raises:
        BundleError: a graph cannot be loaded.
        ConfigError: the name is no device's.
        DeviceError: there is no such GPU, or operators would run elsewhere.
        EngineError: the bundle is not made for TensorRT, or TensorRT is too old.
        MissingExtraError: a package is not installed.
    """

    def graphs(where: Device) -> list[Graph]:
        return [
            open_graph(directory / manifest.graphs[name].file, spec, where, threads=threads, mapped=name in mapped)
            for name, spec in manifest.specs.items()
        ]

    kind, *words = device.split(",")
    backend, _, index = kind.partition(":")
    if backend not in (ENGINES, PROVIDER):
        return Opened(graphs(open_device(device)))
    if not (index or "0").isdecimal():
        raise ConfigError(f"device {device!r}: {EXPECTED}")
    settings = parse_settings(words)
    gpu = CudaDevice(int(index or 0))
    if backend == PROVIDER:
        return Opened(open_provider(directory, manifest, gpu, settings, threads=threads))
    meanwhile = [("onnxruntime's CUDA provider", lambda: graphs(gpu)), ("the CPU", lambda: graphs(CPU))]
    return serve_engines(directory, manifest, gpu, meanwhile, settings)


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
