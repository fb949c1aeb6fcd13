"""The device `onnxruntime-tensorrt`: onnxruntime's TensorRT provider, and CUDA for operators that it lacks.

When a graph is loaded, onnxruntime builds and keeps an engine for each part of it that TensorRT can run. The
onnxruntime-gpu wheels of 1.24 to 1.31 are linked to TensorRT 10 (libnvinfer.so.10): with TensorRT 11 alone the provider
does not start, which is an error here. No option names float16, so onnxruntime makes a strongly typed network with the
graph's types. Not yet run on hardware.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bestow_edge.core.errors import EngineError, MissingExtraError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.backend import DeviceName, GraphFiles, Opened
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cpu import Provider
from bestow_edge.runtime.devices.onnx_cuda import CudaOnnxGraph
from bestow_edge.runtime.devices.tensorrt.building import MEGABYTE, Options
from bestow_edge.runtime.devices.tensorrt.engine_store import default_directory
from bestow_edge.runtime.devices.tensorrt.engines import check_target, parse_settings
from bestow_edge.runtime.devices.tensorrt.library import import_tensorrt
from bestow_edge.runtime.devices.tensorrt.profiles import Profile, Range, dynamic_inputs, profiles

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
LINKED_MAJOR = "10"
logger = logging.getLogger(__name__)


def open_graphs(files: GraphFiles, name: DeviceName) -> Opened:
    """Load a bundle's graphs with the provider, see `opening.open_graphs`; the first time this takes minutes.

    The options are those of `parse_settings`.
    """
    settings, device = parse_settings(name.options), CudaDevice(name.index)
    check_target(files)
    check_linked()
    cache = default_directory() / "onnxruntime"
    cache.mkdir(parents=True, exist_ok=True)
    graphs: dict[str, Graph] = {}
    for graph, path, spec in files:
        known = profiles(spec, files.manifest, settings.bounds)
        before = [tensorrt_provider(spec, known, device, settings.options, cache)]
        graphs[graph] = loaded = CudaOnnxGraph(path, spec, device, threads=files.threads, before=before)
        counts = {provider: sum(found.values()) for provider, found in loaded.placement.items()}
        logger.info("%s: operators by provider: %s", graph, counts)
    return Opened(graphs)


def check_linked() -> None:
    """Load TensorRT's libraries, if pip installed them, and check that the provider is linked to their version.

    Raises:
        EngineError: if TensorRT 11 is installed.
    """
    try:
        trt = import_tensorrt()  # this loads the libraries, wherever they are, before the provider looks for them
    except MissingExtraError:
        logger.info("no Python package tensorrt: onnxruntime looks for libnvinfer.so.%s itself", LINKED_MAJOR)
        return
    if str(trt.__version__).partition(".")[0] != LINKED_MAJOR:
        problem = f"onnxruntime-gpu's TensorRT provider is linked to TensorRT {LINKED_MAJOR}"
        remedy = "pip install 'tensorrt-cu13<11', or --device tensorrt:0, which takes both"
        raise EngineError(f"TensorRT {trt.__version__}: {problem}; {remedy}")


def tensorrt_provider(
    spec: GraphSpec, known: Sequence[Profile], device: CudaDevice, options: Options, cache: Path
) -> Provider:
    """Return the provider and its options for a graph.

    The profiles become one, because the provider cannot choose between several. In the cache, a directory, onnxruntime
    names engines and timings by graph, GPU and TensorRT.
    """
    whole = union(known)
    shapes = {tensor.name: whole.shapes(tensor) for tensor in dynamic_inputs(spec)}

    def text(index: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, kinds[index]))}" for name, kinds in shapes.items())

    return TENSORRT_PROVIDER, {
        "device_id": str(device.index),
        "user_compute_stream": str(device.stream),
        "trt_max_workspace_size": str(options.workspace_mb * MEGABYTE),
        "trt_builder_optimization_level": str(options.level),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": text(0),
        "trt_profile_opt_shapes": text(1),
        "trt_profile_max_shapes": text(2),
    }


def union(known: Sequence[Profile]) -> Profile:
    """Return one profile for all sizes, with the usual sizes of the first one."""

    def joined(axis: str) -> Range:
        ranges = [profile.axes[axis] for profile in known]
        return Range(min(r.least for r in ranges), ranges[0].usual, max(r.most for r in ranges))

    return Profile("all", {axis: joined(axis) for axis in known[0].axes})
