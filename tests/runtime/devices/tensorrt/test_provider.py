"""onnxruntime's TensorRT provider: its options, its version limit, and that what it does not take goes to CUDA."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import install_cuda
from fake_onnxruntime import install_onnxruntime
from fake_tensorrt import VERSIONS, fake_tensorrt

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import BundleError, EngineError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.runtime import TextEvent, load
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cuda import CUDA_PROVIDER
from bestow_edge.runtime.devices.tensorrt.building import Options
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds, profiles
from bestow_edge.runtime.devices.tensorrt.provider import TENSORRT_PROVIDER, tensorrt_provider


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and TensorRT 10."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    install_cuda(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(VERSIONS[0]))


def test_options(tensorrt_bundle: Path, tmp_path: Path) -> None:
    manifest, gpu = read_manifest(tensorrt_bundle), CudaDevice(0)
    options = {}
    for name, spec in manifest.specs.items():
        known = profiles(spec, manifest, Bounds(rows=2, prompt_tokens=50))
        kind, options[name] = tensorrt_provider(spec, known, gpu, Options(workspace_mb=256, level=2), tmp_path)
        assert kind == TENSORRT_PROVIDER
        assert all(isinstance(value, str) for value in options[name].values())
    encoder, llm = options[ENCODER], options[LLM]
    assert encoder["user_compute_stream"] == str(gpu.stream)
    assert encoder["trt_max_workspace_size"] == str(256 << 20)
    assert encoder["trt_engine_cache_path"] == encoder["trt_timing_cache_path"] == str(tmp_path)
    assert "mel:1x8x80" in encoder["trt_profile_min_shapes"].split(",")
    assert "mel:1x112x80" in encoder["trt_profile_max_shapes"].split(",")
    assert "inputs_embeds:1x1x48" in llm["trt_profile_opt_shapes"].split(",")
    assert "inputs_embeds:2x50x48" in llm["trt_profile_max_shapes"].split(",")
    assert "cache_values_1:2x2x256x12" in llm["trt_profile_max_shapes"].split(",")
    assert "memory_keys_0:2x4096x32" in options[ADAPTER]["trt_profile_max_shapes"].split(",")
    assert not [key for key in encoder if "fp16" in key], "types are the graph's"


def test_a_session_on_it(
    tensorrt_bundle: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    onnxruntime = install_onnxruntime(monkeypatch, tensorrt=True)
    texts = []
    for device in ("cpu", "onnxruntime-tensorrt:0,rows=2"):
        with caplog.at_level("INFO"):
            model = load(tensorrt_bundle, device=device, threads=1)
        with model.session(source="en", target="de", k=1) as session:
            events = session.feed(speech) + session.finish()
        texts.append([event.text for event in events if isinstance(event, TextEvent)])
    assert texts[0] == texts[1] != []
    assert "llm_step: operators by provider: {'CUDAExecutionProvider'" in caplog.text
    assert model.device.name == "cuda:0"
    assert [list(session.providers) for session in onnxruntime.sessions] == [[TENSORRT_PROVIDER, CUDA_PROVIDER]] * 3


def test_it_is_missing(tensorrt_bundle: Path) -> None:
    with pytest.raises(BundleError, match="this onnxruntime has no TensorrtExecutionProvider"):
        load(tensorrt_bundle, device="onnxruntime-tensorrt:0")


def test_it_is_linked_to_tensorrt_10(tensorrt_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(VERSIONS[1]))
    with pytest.raises(
        EngineError, match=r"TensorRT 11.4.0.106: .* is linked to TensorRT 10; pip install 'tensorrt-cu13<11'"
    ):
        load(tensorrt_bundle, device="onnxruntime-tensorrt:0")


def test_libraries_without_the_python_package_will_do(
    tensorrt_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with caplog.at_level("INFO"), pytest.raises(BundleError, match="has no TensorrtExecutionProvider"):
        load(tensorrt_bundle, device="onnxruntime-tensorrt:0")
    assert "onnxruntime looks for libnvinfer.so.10 itself" in caplog.text


def test_a_bundle_for_another_target(tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match="a bundle for cpu"):
        load(tiny_bundle, device="onnxruntime-tensorrt:0")
