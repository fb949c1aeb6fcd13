"""A CUDA runtime whose memory is the host's: in the place of `cuda.bindings.runtime`, under its names and signatures.

It refuses what a GPU would: memory that was not allocated or was freed, copies beyond an allocation, host addresses
where the GPU's belong. New memory holds garbage.
"""

# ruff: noqa: N802, N815 - CUDA's own names

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bestow_edge.runtime.devices.cuda import CudaDevice

GARBAGE = 0xFF  # NaN in every kind of float


class Error(IntEnum):
    """cudaError_t."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101


class Kind(IntEnum):
    """cudaMemcpyKind."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class FakeRuntime:
    """One GPU, as much of it as the package asks for."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = Kind
    capability = (8, 7)  # an Orin's

    def __init__(self, memory_bytes: int = 1 << 30, gpus: int = 1) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[Kind] = Counter()
        self.left = self.total = memory_bytes
        self._gpus = gpus
        self._memory: dict[int, Any] = {}  # numpy arrays by address

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda"):
            object.__getattribute__(self, "calls")[name] += 1
        return object.__getattribute__(self, name)

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self._gpus

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (Error.cudaSuccess if device < self._gpus else Error.cudaErrorInvalidDevice,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        return Error.cudaSuccess, 77 * flags

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        return (Error.cudaSuccess if stream == 77 else Error.cudaErrorInvalidValue,)

    def cudaGetDeviceProperties(self, _: int) -> tuple[Error, Any]:
        major, minor = self.capability
        found = SimpleNamespace(name=b"Fake GPU\0", major=major, minor=minor, totalGlobalMem=self.total)
        return Error.cudaSuccess, found

    def cudaDriverGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, 13000

    def cudaRuntimeGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, 13050

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        return Error.cudaSuccess, self.left, self.total

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:
        if size > self.left:
            return Error.cudaErrorMemoryAllocation, None
        self.left -= size
        whole = np.full(size + 256, GARBAGE, dtype=np.uint8)
        start = -whole.ctypes.data % 256
        self._memory[whole.ctypes.data + start] = whole[start : start + size]
        return Error.cudaSuccess, whole.ctypes.data + start

    def cudaFree(self, pointer: int) -> tuple[Error]:
        self.left += self._memory.pop(pointer).size
        return (Error.cudaSuccess,)

    def cudaMemsetAsync(self, pointer: int, value: int, count: int, stream: int) -> tuple[Error]:
        if not self._holds(pointer, count) or stream != 77:
            return (Error.cudaErrorInvalidValue,)
        ctypes.memset(pointer, value, count)
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Kind, stream: int) -> tuple[Error]:
        return self.cudaMemcpy2DAsync(target, count, source, count, count, 1, kind, stream)

    def cudaMemcpy2DAsync(
        self, target: int, pitch: int, source: int, source_pitch: int, width: int, height: int, kind: Kind, stream: int
    ) -> tuple[Error]:
        to_device, from_device = kind != Kind.cudaMemcpyDeviceToHost, kind != Kind.cudaMemcpyHostToDevice
        lawful = (
            stream == 77
            and min(pitch, source_pitch) >= width > 0
            and height > 0
            and self._holds(target, (height - 1) * pitch + width) == to_device
            and self._holds(source, (height - 1) * source_pitch + width) == from_device
        )
        if not lawful:
            return (Error.cudaErrorInvalidValue,)
        for row in range(height):
            ctypes.memmove(target + row * pitch, source + row * source_pitch, width)
        self.bytes[kind] += width * height
        return (Error.cudaSuccess,)

    def _holds(self, pointer: int, count: int) -> bool:
        return any(start <= pointer and pointer + count <= start + held.size for start, held in self._memory.items())


@pytest.fixture
def fake_runtime() -> FakeRuntime:
    """The runtime that `fake_gpu` has."""
    return FakeRuntime()


@pytest.fixture
def fake_gpu(fake_runtime: FakeRuntime) -> CudaDevice:
    """A GPU whose memory is the host's."""
    return CudaDevice(0, runtime=fake_runtime)  # type: ignore[arg-type]  # as much of the module as is asked for


def install_cuda(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeRuntime:
    """Let `from cuda.bindings import runtime` give a new fake one."""
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = FakeRuntime(**options)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return bindings.runtime
