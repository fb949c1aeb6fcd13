"""A GPU's memory: buffers, views and copies on one stream, by the CUDA runtime alone (`cuda.bindings`, no torch).

Everything that is asked of a device, graphs included, goes to one stream and is done in that order. So memory that is
no longer referred to can be given to the next buffer at once: what still reads it comes first. Buffers of one call lie
in one block, in order, which lets `copy` store the new keys and values of all layers in one go. It knows no graphs.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from bestow_edge.core.errors import DeviceError, MissingExtraError
from bestow_edge.core.tensors import TensorSpec
from bestow_edge.runtime.devices.base import Array, Buffer, shape

ALIGNMENT = 256  # bytes: what cudaMalloc gives and TensorRT asks of every tensor
SIZE_STEP = 512  # bytes: blocks are multiples of it, so that buffers of nearly one size share them
Rows = tuple[int, int, int]  # how many, and the steps in bytes of target and source
Layout = tuple[int, list[Rows]]  # bytes of a row, rows from the outermost to the innermost


def import_runtime() -> ModuleType:
    """Import the CUDA runtime.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError("cuda.bindings", "gpu") from error
    module: ModuleType = runtime
    return module


class CudaArray:
    """A tensor on a GPU, or a view of one. Made by `CudaDevice`."""

    __slots__ = ("dtype", "owner", "pointer", "shape", "strides")

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: object, strides: tuple[int, ...] = ()
    ) -> None:
        """Describe memory.

        Args:
            pointer: address of its first number.
            shape: sizes of its axes.
            dtype: of its numbers.
            owner: what the memory lives as long as.
            strides: bytes from one index to the next, by axis; none = one behind the other.
        """
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
        """Its numbers lie one behind the other."""
        return self.strides == packed_strides(self.shape, self.dtype.itemsize)

    def __getitem__(self, key: Any) -> CudaArray:  # Any: what numpy takes, of which only some is taken here
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
    """How onnxruntime uses a GPU."""

    arena_gb: float | None = None
    """Most memory of each graph's own arena, 1e9 bytes; None = no limit."""
    cuda_graphs: bool = False
    """Launch the operators of a run whose shapes and addresses come again as one."""
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
        """Open a GPU.

        Args:
            index: which one, from 0.
            options: how onnxruntime uses it.
            runtime: in the place of `cuda.bindings.runtime`.

        Raises:
            MissingExtraError: cuda-bindings is not installed.
            DeviceError: there is no such GPU, or no driver.
        """
        self.index, self.name, self.options = index, f"cuda:{index}", options
        self.runtime: Any = import_runtime() if runtime is None else runtime  # Any: a module without types
        self.lock = threading.RLock() if options.cuda_graphs else nullcontext()
        """Held by whatever asks for work where a run may be recorded: nothing else may come into the recording."""
        self._pools: defaultdict[int, list[int]] = defaultdict(list)  # pointers by size of block, bytes
        self._threads = threading.local()
        self._writing: list[Array] = []  # arrays that the GPU may not have read yet
        self._writing_lock = threading.Lock()
        error, count = self.runtime.cudaGetDeviceCount()
        if int(error):
            raise DeviceError(f"device {self.name}: no GPU, or no driver for this CUDA ({self._told(error)})")
        if index >= count:
            raise DeviceError(f"device {self.name}: this machine has {count} GPUs, numbered from 0")
        self.use()
        self.stream = int(self._call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking))
        """Handle of the stream, for libraries that are to work on it."""
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
        """Return new arrays by name, of whatever the memory held, one behind the other.

        Args:
            tensors: shape and dtype by name.
        """
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
        """Write an array of as many bytes over a packed buffer; the array may be changed afterwards."""
        staged = np.array(array, order="C")
        with self._writing_lock:  # a GPU that reads the host's memory by itself, as a Jetson's may, does so later
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
        """See `Device`; pairs that lie as regularly as their numbers do are one copy."""
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
        """Wait until all that was asked for is done."""
        self.use()
        with self._writing_lock:
            read, self._writing = self._writing, []
        self._call("cudaStreamSynchronize", self.stream)
        del read  # only now

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

    def _call(self, name: str, *arguments: Any) -> Any:  # Any: whatever the function takes and gives
        with self.lock:
            error, *values = getattr(self.runtime, name)(*arguments)
        if int(error):
            told = f"{name} failed: {self._told(error)}; see bestow-edge doctor --gpu"
            raise DeviceError(f"device {self.name}: {told}")
        return values[0] if len(values) == 1 else values

    def _told(self, error: object) -> str:
        _, text = self.runtime.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)


def _free(runtime: Any, pools: Mapping[int, list[int]]) -> None:  # Any: a module without types
    """Give back the memory that nothing refers to; CUDA waits until it is not used any more."""
    for pool in list(pools.values()):
        while pool:
            runtime.cudaFree(pool.pop())


def packed_strides(sizes: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of numbers one behind the other."""
    strides = []
    for size in reversed(sizes):
        strides.append(itemsize)
        itemsize *= size
    return tuple(reversed(strides))


def plan(pairs: Iterable[tuple[Buffer, Buffer]]) -> Iterator[tuple[int, int, int, list[Rows]]]:
    """Yield copies as (target, source, bytes of a row, [rows, ...]), the innermost rows last, always some.

    Pairs of one layout whose addresses go on by the same steps are taken together.
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
    """Return the bytes of a row and the rows of a copy, outermost first; None if there is nothing to copy."""
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
    """Join rows, innermost first, where the outer ones simply go on."""
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
    if not loops:
        yield 0, 0
        return
    size, step, source_step = loops[0]
    for index in range(size):
        for inner, source_inner in _offsets(loops[1:]):
            yield index * step + inner, index * source_step + source_inner
