"""The table of backends: the graphs of a bundle by the name of a device.

A new backend is a file with a function `open_graphs` and a row here. A session on the CPU loads no file for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened

Opener = Callable[[GraphFiles, DeviceName], Opened]
BACKENDS = {
    "cpu": ("onnx_cpu", "cpu"),
    "tensorrt": ("tensorrt.serving", "tensorrt:0"),
    "rtx": ("tensorrt.serving", "rtx:0"),
    "cuda": ("onnx_cuda", "cuda:0 with options such as cuda:0,graphs,arena=4,allow-cpu"),
}
"""By the word before the colon of a device's name: a module of this package, and the names it takes, for messages."""


def parse_device(text: str) -> DeviceName:
    """Return the parts of a device's name; the backend reads the options.

    Raises:
        ConfigError: if there is no such backend, or no number stands behind the colon.
    """
    kind, *options = text.split(",")
    backend, _, index = kind.partition(":")
    *first, last = (names for _, names in BACKENDS.values())
    expected = f"{', '.join(first)}, or {last}"
    name = DeviceName(text, backend, int(index) if index.isdecimal() else 0, tuple(options), expected)
    if backend not in BACKENDS or not (index or "0").isdecimal():
        raise name.error()
    return name


def open_graphs(
    directory: Path, manifest: BundleManifest, device: str, *, threads: int, mapped: Collection[str] = ()
) -> Opened:
    """Load the graphs of a bundle on a device such as `cpu` or `cuda:0,graphs`; see `GraphFiles` for the rest.

    Raises:
        BundleError: if a graph cannot be loaded.
        ConfigError: if the name or an option is unknown.
        DeviceError: if there is no such GPU, or operators would run on the CPU.
        EngineError: if the bundle is not made for TensorRT, or TensorRT is too old or has no such GPU.
        MissingExtraError: if a package is not installed.
    """
    name = parse_device(device)
    module, _ = BACKENDS[name.backend]
    opener: Opener = import_module(f"bestow_edge.runtime.devices.{module}").open_graphs
    return opener(GraphFiles(directory=directory, manifest=manifest, threads=threads, mapped=mapped), name)
