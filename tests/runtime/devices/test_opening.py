"""Devices by name: the table of backends, its errors, and the code that a session on the CPU loads."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from fake_cuda import install_cuda

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import ConfigError, DeviceError, MissingExtraError
from bestow_edge.runtime.devices.onnx_cuda import open_gpu
from bestow_edge.runtime.devices.opening import BACKENDS, open_graphs, parse_device


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_opens_graphs(backend: str) -> None:
    module, names = BACKENDS[backend]
    assert callable(import_module(f"bestow_edge.runtime.devices.{module}").open_graphs)
    assert names.startswith(backend)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu': expected cpu, "),
        ("cuda:x", "device 'cuda:x': expected cpu, "),
        ("cuda:0,fast", "'fast' is unknown; expected cpu, "),
        ("cuda:0,arena=much", "arena 'much' is no number"),
        ("cpu,graphs", "expected cpu, "),
        ("cpu:0", "expected cpu, tensorrt:0, rtx:0, or cuda:0 with options such as cuda:0,graphs"),
    ],
)
def test_no_such_device_name(tiny_bundle: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_graphs(tiny_bundle, read_manifest(tiny_bundle), name, threads=1)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, gpus=2)
    opened = open_gpu(parse_device("cuda:1,graphs,arena=1.5,allow-cpu"))
    assert (opened.name, opened.options.arena_gb, opened.options.cuda_graphs) == ("cuda:1", 1.5, True)
    assert opened.options.allow_cpu
    assert open_gpu(parse_device("cuda")).name == "cuda:0"
    with pytest.raises(DeviceError, match="device cuda:2: this machine has 2 GPUs, numbered from 0"):
        open_gpu(parse_device("cuda:2"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"cuda\.bindings is not installed"):
        open_gpu(parse_device("cuda"))


def test_a_session_on_the_cpu_loads_no_code_for_gpus(tiny_bundle: Path, tmp_path: Path) -> None:
    script = """
import json, sys
import bestow_edge.runtime as runtime
with runtime.load(sys.argv[1], threads=1).session(source="en") as session:
    session.finish()
print(json.dumps([name for name in sys.modules if name.startswith("bestow_edge.runtime.devices.")]))
"""
    command = [sys.executable, "-c", script, str(tiny_bundle)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    loaded = {name.rpartition(".")[2] for name in json.loads(done.stdout.splitlines()[-1])}
    assert loaded == {"backend", "base", "opening", "onnx_cpu", "slots"}
