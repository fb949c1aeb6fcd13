"""A GPU's buffers, views and copies against numpy's, and what a session moves over the bus."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeRuntime, Kind
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.errors import DeviceError
from bestow_edge.core.tensors import TensorSpec
from bestow_edge.runtime.devices.cuda import CudaDevice


def device(**options: Any) -> tuple[CudaDevice, FakeRuntime]:
    runtime = FakeRuntime(**options)
    return CudaDevice(0, runtime=runtime), runtime  # type: ignore[arg-type]  # as much of the module as is asked for


@pytest.mark.parametrize(
    "key",
    [
        (),
        (1,),
        (-1, slice(1, 3)),
        (slice(None), 0),
        (..., slice(2, 4), slice(None)),
        (slice(1, None), ..., 2),
        (slice(None), slice(None), 1, slice(3)),
        (slice(5, 2),),
    ],
    ids=str,
)
def test_views_are_numpys(key: tuple[Any, ...]) -> None:
    gpu, _ = device()
    array = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float16)
    view = gpu.put(array)[key]
    assert (view.shape, view.dtype) == (array[key].shape, array.dtype)
    assert np.array_equal(gpu.get(view)[0], array[key])


def test_what_a_view_on_a_gpu_does_not_take() -> None:
    gpu, _ = device()
    buffer = gpu.put(np.zeros(4))
    with pytest.raises(IndexError, match="slices of step 1"):
        buffer[::2]
    with pytest.raises(IndexError):
        buffer[4]
    with pytest.raises(ValueError, match="does not fit"):
        gpu.copy([(buffer[:2], buffer[:3])])
    with pytest.raises(TypeError, match="got ndarray, expected a buffer of a GPU"):
        gpu.copy([(buffer, np.zeros(4))])


@given(st.data())
def test_copies_are_numpys(data: st.DataObject) -> None:
    gpu, _ = device()
    draw = data.draw
    batch, heads, capacity, tokens, dim, layers = (draw(st.integers(1, 4)) for _ in range(6))
    capacity += tokens
    past = [draw(st.integers(0, capacity - tokens)) for _ in range(batch)]
    axes = ("batch", heads, "slots", dim)
    caches = gpu.zeros([TensorSpec(f"{n}", "float32", axes) for n in range(layers)], batch=batch, slots=capacity)
    rng = np.random.default_rng(0)
    sources = [rng.standard_normal((batch, heads, tokens, dim)).astype(np.float32) for _ in range(layers)]
    expected = [np.zeros((batch, heads, capacity, dim), np.float32) for _ in range(layers)]
    block = gpu.block({f"{n}": (source.shape, source.dtype) for n, source in enumerate(sources)})
    for buffer, source in zip(block.values(), sources, strict=True):
        gpu.write(buffer, source)
    pairs = []
    for row in range(batch):
        for name, cache in caches.items():
            pairs.append((cache[row, ..., past[row] : past[row] + tokens, :], block[name][row]))
            expected[int(name)][row, ..., past[row] : past[row] + tokens, :] = sources[int(name)][row]
    gpu.copy(pairs)
    for got, want in zip(gpu.get(*caches.values()), expected, strict=True):
        assert np.array_equal(got, want)


def test_new_keys_and_values_of_all_layers_are_one_copy() -> None:
    gpu, runtime = device()
    axes = ("batch", 4, "slots", 64)
    tensors = [TensorSpec(f"{n}", "float16", axes) for n in range(44)]
    caches, new = gpu.zeros(tensors, slots=256), gpu.zeros(tensors, slots=1)
    runtime.calls.clear()
    gpu.copy((caches[name][0, ..., 17:18, :], new[name][0]) for name in caches)
    assert runtime.calls["cudaMemcpy2DAsync"] == 1
    gpu.copy((caches[name][..., :, :], new[name]) for name in [])
    assert runtime.calls["cudaMemcpy2DAsync"] == 1


def test_memory_is_used_again_and_given_back_when_it_runs_out() -> None:
    gpu, runtime = device(memory_bytes=10_000)
    first = gpu.put(np.zeros(500))  # 4000 bytes, 4096 with what is rounded up
    pointer = first.pointer
    del first
    gc.collect()
    second = gpu.put(np.ones(510))
    assert second.pointer == pointer
    view = second[3:5]
    del second
    third = gpu.put(np.zeros(500))
    assert third.pointer != pointer  # a view keeps its memory
    del view, third
    gc.collect()
    assert runtime.calls["cudaFree"] == 0
    assert gpu.put(np.zeros(1000)).nbytes == 8000  # more than is left until the others are given back
    assert runtime.calls["cudaFree"] == 2
    with pytest.raises(DeviceError, match="cudaMalloc failed: cudaErrorMemoryAllocation; see bestow-edge doctor --gpu"):
        gpu.put(np.zeros(2000))


def test_what_a_gpu_says_of_itself() -> None:
    gpu, _ = device(memory_bytes=1 << 20)
    assert gpu.properties() | {"driver_cuda": 0} == {
        "gpu": "Fake GPU", "compute_capability": "8.7", "memory_bytes": 1 << 20, "driver_cuda": 0, "runtime_cuda": 13050
    }  # fmt: skip
    assert gpu.memory() == (1 << 20, 1 << 20)
    assert (gpu.name, gpu.stream) == ("cuda:0", 77)


def test_only_what_is_asked_for_crosses_the_bus() -> None:
    gpu, runtime = device()
    buffer = gpu.put(np.zeros((4, 100), np.float32))
    assert runtime.bytes == {Kind.cudaMemcpyHostToDevice: 1600}
    gpu.get(buffer[:, 3])
    assert runtime.bytes[Kind.cudaMemcpyDeviceToHost] == 16


def test_an_array_lives_until_the_gpu_has_read_it() -> None:
    gpu, _ = device()
    array = np.arange(12.0).reshape(3, 4)
    buffer = gpu.put(array.T)  # not in one piece: a copy is what is read
    array[:] = 0
    assert len(gpu._writing) == 1
    assert np.array_equal(gpu.get(buffer)[0], np.arange(12.0).reshape(3, 4).T)
    assert gpu._writing == []


def test_a_device_that_is_gone_gives_its_memory_back() -> None:
    gpu, runtime = device(memory_bytes=1 << 16)
    buffer = gpu.put(np.zeros(1000))
    kept = gpu.put(np.zeros(10))
    del buffer
    gc.collect()
    assert runtime.left < (1 << 16)
    del gpu
    gc.collect()
    assert runtime.left == (1 << 16) - 512  # what is still referred to
    assert kept.nbytes == 80
