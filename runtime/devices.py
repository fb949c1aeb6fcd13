"""Devices and graphs by the name of a device. Knows every backend, and nothing else of them."""

from __future__ import annotations

from pathlib import Path

from bestow_edge.errors import ConfigError
from bestow_edge.graphs import GraphSpec
from bestow_edge.runtime.backend import CPU, Device, Graph
from bestow_edge.runtime.graph import OnnxGraph


def open_device(name: str) -> Device:
    """Return a device.

    Args:
        name: `cpu`.

    Raises:
        ConfigError: there is no such device.
    """
    if name == CPU.name:
        return CPU
    raise ConfigError(f"device {name!r}: expected cpu")


def open_graph(path: Path, spec: GraphSpec, device: Device, *, threads: int, mapped: bool = False) -> Graph:
    """Load a graph on a device; arguments and errors are those of `open_session`."""
    if device is not CPU:
        raise ConfigError(f"device {device.name!r}: expected cpu")
    return OnnxGraph(path, spec, threads=threads, mapped=mapped)
