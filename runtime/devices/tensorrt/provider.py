"""The other way to TensorRT: onnxruntime's TensorRT provider, with CUDA behind it, for whoever has onnxruntime alone.

onnxruntime builds and keeps the engines then, one for each part of a graph that TensorRT takes, when a graph is loaded.
The onnxruntime-gpu wheels of 1.24 to 1.31 are linked to TensorRT 10 (libnvinfer.so.10): with TensorRT 11 alone the
provider does not start, which is an error here. Types are the graph's: no option asks for float16, so that onnxruntime
makes a strongly typed network. Not yet run on hardware.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.errors import EngineError, MissingExtraError
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cpu import Provider
from bestow_edge.runtime.devices.onnx_cuda import CudaOnnxGraph
from bestow_edge.runtime.devices.tensorrt.building import MEGABYTE, Options
from bestow_edge.runtime.devices.tensorrt.engine_store import default_directory
from bestow_edge.runtime.devices.tensorrt.engines import Settings, check_target
from bestow_edge.runtime.devices.tensorrt.library import import_tensorrt
from bestow_edge.runtime.devices.tensorrt.profiles import Profile, Range, dynamic_inputs, profiles

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
LINKED_MAJOR = "10"
logger = logging.getLogger(__name__)


def open_provider(
    directory: Path, manifest: BundleManifest, device: CudaDevice, settings: Settings, *, threads: int
) -> list[CudaOnnxGraph]:
    """Load a bundle's graphs with the provider; the first time this takes minutes.

    Args:
        directory: the bundle.
        manifest: its manifest.
        device: the GPU.
        settings: how engines are built.
        threads: CPU threads within one operator.

    Raises:
        BundleError: the provider is missing or did not start.
        DeviceError: operators would run on the CPU.
        EngineError: the bundle is not made for TensorRT, or TensorRT 11 is installed.
    """
    check_target(directory, manifest)
    check_linked()
    cache = default_directory() / "onnxruntime"
    cache.mkdir(parents=True, exist_ok=True)
    graphs = []
    for name, spec in manifest.specs.items():
        known = profiles(spec, manifest, settings.bounds)
        before = [tensorrt_provider(spec, known, device, settings.options, cache)]
        path = directory / manifest.graphs[name].file
        graph = CudaOnnxGraph(path, spec, device, threads=threads, before=before)
        counts = {provider: sum(found.values()) for provider, found in graph.placement.items()}
        logger.info("%s: operators by provider: %s", name, counts)
        graphs.append(graph)
    return graphs


def check_linked() -> None:
    """Load TensorRT's libraries, where pip installed them, and refuse those that the provider is not linked to.

    Raises:
        EngineError: TensorRT 11 is installed.
    """
    try:
        trt = import_tensorrt()  # it loads the libraries, wherever they are; the provider finds them loaded
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

    Args:
        spec: contract of the graph.
        known: its profiles, which become one: the provider chooses none while it runs.
        device: the GPU.
        options: how engines are built.
        cache: directory for engines and timings; onnxruntime names the files by graph, GPU and TensorRT.
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
    """Return one profile for all sizes, tuned as the first one is."""

    def joined(axis: str) -> Range:
        ranges = [profile.axes[axis] for profile in known]
        return Range(min(r.least for r in ranges), ranges[0].usual, max(r.most for r in ranges))

    return Profile("all", {axis: joined(axis) for axis in known[0].axes})
