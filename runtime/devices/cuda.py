"""A GPU's memory: buffers, views and copies on one stream, with the CUDA runtime alone (`cuda.bindings`, no torch).

All work of a device, runs of graphs included, goes to one stream, which keeps the order of the calls. So memory without
references can go to the next buffer at once: earlier work that still reads it is done before later work writes to it.
Buffers of one call are neighbours in one block; so `copy` can store the new keys and values of all layers in one copy.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from bestow_edge.core.errors import DeviceError, MissingExtraError
from bestow_edge.core.tensors import TensorSpec
from bestow_edge.runtime.devices.base import Array, Buffer, shape

ALIGNMENT = 256  # bytes: cudaMalloc gives it and TensorRT needs it for every tensor
SIZE_STEP = 512  # bytes: sizes of blocks are multiples of it, so buffers of similar size reuse each other's
Rows = tuple[int, int, int]  # their number, and the steps of target and source in bytes
Layout = tuple[int, list[Rows]]  # bytes of a row, rows from the outermost to the innermost


def import_runtime() -> Any:  # Any: a module without types
    """Import the CUDA runtime; raise a `MissingExtraError` if cuda-bindings is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError("cuda.bindings", "gpu") from error
    return runtime


class CudaArray:
    """A tensor on a GPU, or a view of one. Made by `CudaDevice`."""

    __slots__ = ("dtype", "owner", "pointer", "shape", "strides")

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: object, strides: tuple[int, ...] = ()
    ) -> None:
        """Describe memory, which its owner keeps from reuse; `strides` are bytes by axis, empty = packed."""
        self.pointer, self.shape, self.dtype, self.owner = pointer, shape, dtype, owner
        self.strides = strides or packed_strides(shape, dtype.itemsize)

    def __repr__(self) -> str:
        return f"CudaArray({self.dtype}, {self.shape})"

    @property
    def nbytes(self) -> int:
        """Of its numbers."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def is_packed(self) -> bool:
        """Whether its numbers are contiguous, in row-major order."""
        return self.strides == packed_strides(self.shape, self.dtype.itemsize)

    def __getitem__(self, key: Any) -> CudaArray:  # Any: as wide as numpy's keys, of which some are refused
        """Return a view: integers, slices of step 1 and `...`."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        keys += [slice(None)] * (len(self.shape) - len(keys))
        pointer, sizes, strides = self.pointer, [], []
        for item, size, stride in zip(keys, self.shape, self.strides, strict=True):
            first, end, step = item.indices(size) if isinstance(item, slice) else (range(size)[item], 0, 1)
            if step != 1:
                raise IndexError(f"{key}: a view on a GPU has slices of step 1")
            pointer += first * stride
            if isinstance(item, slice):
                sizes.append(max(0, end - first))
                strides.append(stride)
        return CudaArray(pointer, tuple(sizes), self.dtype, self.owner, tuple(strides))


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaOptions:
    """Options of onnxruntime on a GPU."""

    arena_gb: float | None = None
    """Most memory of each graph's own arena, 1e9 bytes; None = no limit."""
    cuda_graphs: bool = False
    """Launch a run as one if its shapes and addresses came before."""
    allow_cpu: bool = False
    """Operators without a GPU kernel may run on the CPU."""


class _Block:
    """Memory that goes back to its device's pool when the last array in it is gone."""

    __slots__ = ("_pool", "pointer")

    def __init__(self, pointer: int, pool: list[int]) -> None:
        self.pointer, self._pool = pointer, pool

    def __del__(self) -> None:
        self._pool.append(self.pointer)


class CudaDevice:
    """One GPU and one stream on it."""

    def __init__(self, index: int, options: CudaOptions = CudaOptions(), runtime: ModuleType | None = None) -> None:
        """Open a GPU by its number, from 0; `runtime` replaces `cuda.bindings.runtime`.

        Raises:
            MissingExtraError: if cuda-bindings is not installed.
            DeviceError: if there is no such GPU, or no driver.
        """
        self.index, self.name, self.options = index, f"cuda:{index}", options
        self.runtime = import_runtime() if runtime is None else runtime
        self.lock = threading.RLock() if options.cuda_graphs else nullcontext()
        """Held by every call to CUDA if runs may be recorded: no other call may enter a recording."""
        self._pools: defaultdict[int, list[int]] = defaultdict(list)  # pointers by size of block, bytes
        self._threads = threading.local()
        self._writing: list[Array] = []  # host arrays that the GPU may still have to read
        self._writing_lock = threading.Lock()
        error, count = self.runtime.cudaGetDeviceCount()
        if int(error):
            raise DeviceError(f"device {self.name}: no GPU, or no driver for this CUDA ({self._text(error)})")
        if index >= count:
            raise DeviceError(f"device {self.name}: this machine has {count} GPUs, numbered from 0")
        self.use()
        self.stream = int(self._call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking))
        """Handle of the stream, for libraries that work on it."""
        weakref.finalize(self, _free, self.runtime, self._pools).atexit = False

    def zeros(self, tensors: Iterable[TensorSpec], **sizes: int) -> dict[str, Buffer]:
        """See `Device`."""
        block = self.block({tensor.name: (shape(tensor, **sizes), np.dtype(tensor.dtype)) for tensor in tensors})
        arrays = list(block.values())
        if arrays:
            self.use()
            num_bytes = arrays[-1].pointer + arrays[-1].nbytes - arrays[0].pointer
            self._call("cudaMemsetAsync", arrays[0].pointer, 0, num_bytes, self.stream)
        return dict(block)

    def block(self, tensors: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, CudaArray]:
        """Return new arrays of some shapes and dtypes by name, uninitialised, as neighbours in one block."""
        starts, num_bytes = [], 0
        for sizes, dtype in tensors.values():
            starts.append(num_bytes)
            num_bytes += -(-int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        block = self._allocate(num_bytes)
        return {
            name: CudaArray(block.pointer + start, sizes, dtype, block)
            for (name, (sizes, dtype)), start in zip(tensors.items(), starts, strict=True)
        }

    def put(self, array: Array) -> CudaArray:
        """See `Device`."""
        buffer = self.block({"": (array.shape, array.dtype)})[""]
        self.write(buffer, array)
        return buffer

    def write(self, target: CudaArray, array: Array) -> None:
        """Write an array of the same number of bytes to a packed buffer; the caller may change the array afterwards."""
        staged = np.array(array, order="C")
        with self._writing_lock:  # some GPUs, such as a Jetson's, read the host's memory later
            self._writing.append(staged)
            self._copy_memory(target.pointer, staged.ctypes.data, target.nbytes, "HostToDevice")

    def get(self, *buffers: Buffer) -> tuple[Array, ...]:
        """See `Device`."""
        arrays = []
        for buffer in buffers:
            source = _array(buffer)
            if not source.is_packed:
                packed = self.block({"": (source.shape, source.dtype)})[""]
                self.copy([(packed, source)])
                source = packed
            array = np.empty(source.shape, source.dtype)
            self._copy_memory(array.ctypes.data, source.pointer, source.nbytes, "DeviceToHost")
            arrays.append(array)
        self._wait()
        return tuple(arrays)

    def copy(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> None:
        """See `Device`; pairs with equal layouts at regular distances become one copy."""
        self.use()
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for target, source, width, (*loops, (height, pitch, source_pitch)) in plan(pairs):
            for step, source_step in _offsets(loops):
                to, origin = target + step, source + source_step
                self._call("cudaMemcpy2DAsync", to, pitch, origin, source_pitch, width, height, kind, self.stream)

    def memory(self) -> tuple[int, int]:
        """Return free and total memory of the GPU, bytes."""
        self.use()
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def properties(self) -> dict[str, str | int]:
        """Return the GPU's name, its compute capability and the versions of driver and runtime."""
        found = self._call("cudaGetDeviceProperties", self.index)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return {
            "gpu": name.rstrip("\0"),
            "compute_capability": f"{found.major}.{found.minor}",
            "memory_bytes": int(found.totalGlobalMem),
            "driver_cuda": int(self._call("cudaDriverGetVersion")),
            "runtime_cuda": int(self._call("cudaRuntimeGetVersion")),
        }

    def _allocate(self, num_bytes: int) -> _Block:
        size = max(1, -(-num_bytes // SIZE_STEP)) * SIZE_STEP
        pool = self._pools[size]
        try:
            return _Block(pool.pop(), pool)
        except IndexError:
            self.use()
        with self.lock:
            error, pointer = self.runtime.cudaMalloc(size)
        if int(error):
            self._wait()
            with self.lock:
                _free(self.runtime, self._pools)
            pointer = self._call("cudaMalloc", size)
        return _Block(int(pointer), pool)

    def _wait(self) -> None:
        """Wait until all work is done."""
        self.use()
        with self._writing_lock:
            read, self._writing = self._writing, []
        self._call("cudaStreamSynchronize", self.stream)
        del read  # not before: the GPU may have read them until now

    def _copy_memory(self, target: int, source: int, num_bytes: int, kind: str) -> None:
        self.use()
        if num_bytes:
            direction = getattr(self.runtime.cudaMemcpyKind, f"cudaMemcpy{kind}")
            self._call("cudaMemcpyAsync", target, source, num_bytes, direction, self.stream)

    def use(self) -> None:
        """Make this GPU the calling thread's."""
        if not hasattr(self._threads, "used"):
            self._call("cudaSetDevice", self.index)
            self._threads.used = True

    def _call(self, name: str, *arguments: Any) -> Any:  # Any: arguments and results of any function
        with self.lock:
            error, *values = getattr(self.runtime, name)(*arguments)
        if int(error):
            raise DeviceError(f"device {self.name}: {name} failed: {self._text(error)}; see bestow-edge doctor --gpu")
        return values[0] if len(values) == 1 else values

    def _text(self, error: object) -> str:
        _, text = self.runtime.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)


def _free(runtime: Any, pools: Mapping[int, list[int]]) -> None:  # Any: a module without types
    """Free the memory of the pools; CUDA waits until no work uses it."""
    for pool in list(pools.values()):
        while pool:
            runtime.cudaFree(pool.pop())


def packed_strides(sizes: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of a contiguous array in row-major order."""
    strides = []
    for size in reversed(sizes):
        strides.append(itemsize)
        itemsize *= size
    return tuple(reversed(strides))


def plan(pairs: Iterable[tuple[Buffer, Buffer]]) -> Iterator[tuple[int, int, int, list[Rows]]]:
    """Yield copies as (target, source, bytes of a row, [rows, ...]); the rows are never empty, the innermost come last.

    Successive pairs with one layout and constant steps between their addresses become one copy.
    """
    group: list[tuple[int, int]] = []
    layout: Layout = (0, [])
    for target, source in ((_array(target), _array(source)) for target, source in pairs):
        new, at = _layout(target, source), (target.pointer, source.pointer)
        if new is None:
            continue
        if group and (new != layout or not _goes_on(group, at, new[0])):
            yield _joined(group, layout)
            group = []
        layout = new
        group.append(at)
    if group:
        yield _joined(group, layout)


def _array(buffer: Buffer) -> CudaArray:
    if not isinstance(buffer, CudaArray):
        raise TypeError(f"got {type(buffer).__name__}, expected a buffer of a GPU")
    return buffer


def _layout(target: CudaArray, source: CudaArray) -> Layout | None:
    """Return the bytes of a row and the rows of a copy, outermost first; None for an empty copy."""
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(f"{source} does not fit {target}")
    width = target.dtype.itemsize
    rows: list[Rows] = []
    for size, step, source_step in zip(target.shape[::-1], target.strides[::-1], source.strides[::-1], strict=True):
        if size == 0:
            return None
        if not rows and step == source_step == width:
            width *= size
        elif size > 1:
            rows.append((size, step, source_step))
    return width, _merged(rows)[::-1]


def _merged(rows: list[Rows]) -> list[Rows]:
    """Join neighbours, innermost first, if the outer step is exactly the extent of the inner rows."""
    merged: list[Rows] = []
    for size, step, source_step in rows:
        inner = merged[-1] if merged else None
        if inner is not None and (step, source_step) == (inner[0] * inner[1], inner[0] * inner[2]):
            merged[-1] = (inner[0] * size, inner[1], inner[2])
        else:
            merged.append((size, step, source_step))
    return merged


def _goes_on(group: list[tuple[int, int]], at: tuple[int, int], width: int) -> bool:
    step = tuple(new - old for new, old in zip(at, group[-1], strict=True))
    if len(group) == 1:
        return min(step) >= width
    return step == tuple(new - old for new, old in zip(group[1], group[0], strict=True))


def _joined(group: list[tuple[int, int]], layout: Layout) -> tuple[int, int, int, list[Rows]]:
    width, rows = layout
    (target, source), inner = group[0], rows[::-1]
    if len(group) > 1:
        inner = _merged([*inner, (len(group), group[1][0] - target, group[1][1] - source)])
    return target, source, width, inner[::-1] or [(1, width, width)]


def _offsets(loops: list[Rows]) -> Iterator[tuple[int, int]]:
    """Yield the offsets of target and source in nested loops."""
    for indices in product(*(range(size) for size, _, _ in loops)):
        target = sum(index * step for index, (_, step, _) in zip(indices, loops, strict=True))
        source = sum(index * step for index, (_, _, step) in zip(indices, loops, strict=True))
        yield target, source
