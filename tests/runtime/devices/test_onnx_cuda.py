"""Sessions on a GPU whose memory is the host's: the same code, bindings and texts as on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeRuntime, Kind, install_cuda
from fake_onnxruntime import install_onnxruntime

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import BundleError, DeviceError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.runtime.devices.cuda import CudaDevice, CudaOptions
from bestow_edge.runtime.devices.onnx_cpu import CPU_PROVIDER
from bestow_edge.runtime.devices.onnx_cuda import CUDA_PROVIDER, NO_CAPTURE, CudaOnnxGraph
from bestow_edge.runtime.model import Model


@pytest.fixture
def load_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Model, FakeRuntime]]:
    """Load a bundle on a GPU whose memory is the host's."""
    install_onnxruntime(monkeypatch)

    def load(bundle: Path, device: str = "cuda:0", **options: Any) -> tuple[Model, FakeRuntime]:
        runtime = install_cuda(monkeypatch)
        return Model(bundle, read_manifest(bundle), device=device, threads=1, **options), runtime

    return load


def heard(model: Model, speech: np.ndarray, **session: Any) -> list[Any]:
    opened = model.session(**session)
    events = []
    for start in range(0, speech.size, 8000):
        events += opened.feed(speech[start : start + 8000])
    return [*events, *opened.finish()]


@pytest.mark.parametrize(
    "policy", [WaitK(1, 2), AlignAtt(2), LocalAgreement(2), Offline()], ids=lambda p: type(p).__name__
)
def test_a_session_says_what_it_says_on_the_cpu(
    model: Model, tiny_bundle: Path, load_on_gpu: Callable[..., Any], speech: np.ndarray, policy: Policy
) -> None:
    gpu, _ = load_on_gpu(tiny_bundle)
    options: dict[str, Any] = {"source": "en", "target": "de", "policy": policy, "lookahead": 1}
    assert heard(gpu, speech[:40000], **options) == heard(model, speech[:40000], **options)


def test_the_other_ways_through_a_session(
    model: Model, tiny_bundle: Path, load_on_gpu: Callable[..., Any], speech: np.ndarray
) -> None:
    """Several texts as a batch, drafts, a beam, encoding ahead: what copies rows, states and the memory."""
    gpu, _ = load_on_gpu(tiny_bundle, ahead=True)
    for loaded in (model, gpu):
        session = loaded.multi_session([("en-en", WaitK(1, 2)), ("en-de", WaitK(3, 4))], lookahead=1)
        events: list[Any] = [*session.feed(speech[:32000]), session.draft(1), *session.feed(speech[32000:48000])]
        events += [session.draft(0), *session.finish()]
        events += heard(loaded, speech[:16000], source="de", policy=Offline(), beam_size=3)
        if loaded is model:
            expected = events
    assert events == expected


def test_a_bidirectional_encoder(
    bidirectional_model: Model, bidirectional_bundle: Path, load_on_gpu: Callable[..., Any], speech: np.ndarray
) -> None:
    gpu, _ = load_on_gpu(bidirectional_bundle)
    assert heard(gpu, speech[:40000], source="en") == heard(bidirectional_model, speech[:40000], source="en")


def test_only_tokens_counts_and_flags_cross_the_bus(tiny_bundle: Path, load_on_gpu: Callable[..., Any]) -> None:
    gpu, runtime = load_on_gpu(tiny_bundle)
    session = gpu.session(source="en", lookahead=1)
    decoder = session._decoder
    for _ in range(2):  # an attempt and the next one use two blocks of outputs in turn
        attempts = decoder.attempt([0])
    runtime.bytes.clear()
    runtime.calls.clear()
    attempts = decoder.attempt([0])
    assert runtime.bytes[Kind.cudaMemcpyDeviceToHost] == 8 + 4  # token id and log-probability
    assert runtime.bytes[Kind.cudaMemcpyHostToDevice] < 2048  # a few counts, each on an address of its own
    assert runtime.calls["cudaStreamSynchronize"] == 1
    assert runtime.calls["cudaMalloc"] == 0
    (attempt,) = attempts
    assert attempt.log_probs.shape == (gpu.config.llm["vocab_size"],)
    assert attempt.log_probs.argmax() == attempt.token_id
    assert attempt.log_probs.max() == pytest.approx(attempt.log_prob, abs=1e-6)


def test_outputs_last_as_long_as_they_are_referred_to(tiny_bundle: Path, load_on_gpu: Callable[..., Any]) -> None:
    gpu, _ = load_on_gpu(tiny_bundle)
    decoder = gpu.session(source="en", lookahead=1)._decoder
    kept = decoder.attempt([0])[0]
    for token in range(5, 9):
        decoder.commit(0, token)
        later = decoder.attempt([0])[0]
    assert kept.log_probs.argmax() == kept.token_id  # read only now, several runs later
    assert not np.array_equal(kept.log_probs, later.log_probs)


def test_blocks_and_addresses_come_again(
    tiny_bundle: Path, load_on_gpu: Callable[..., Any], speech: np.ndarray
) -> None:
    gpu, runtime = load_on_gpu(tiny_bundle)
    session = gpu.session(source="en", lookahead=0, k=1, l=1)
    session.feed(speech[:32000])
    allocated = runtime.calls["cudaMalloc"]
    session.feed(speech[32000:40000])
    assert runtime.calls["cudaMalloc"] <= allocated + 4  # a cache may have grown
    assert len(session._listener._encoder._runner._of_block) <= 3


@pytest.fixture
def llm(tiny_bundle: Path, fake_gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CudaOnnxGraph]:
    """Load the LLM on the fake GPU."""
    manifest = read_manifest(tiny_bundle)

    def load(lacks: tuple[str, ...] = (), **options: Any) -> CudaOnnxGraph:
        install_onnxruntime(monkeypatch, lacks=lacks)
        fake_gpu.options = CudaOptions(**options)
        return CudaOnnxGraph(tiny_bundle / "llm_step.onnx", manifest.specs["llm_step"], fake_gpu, threads=1)

    return load


def test_runs_that_come_again_are_captured(llm: Callable[..., CudaOnnxGraph]) -> None:
    graph = llm(cuda_graphs=True)
    here, there = (("x", 1, (2, 3)),), (("x", 9, (2, 3)),)
    assert [graph.capture_of(here) for _ in range(4)] == [NO_CAPTURE, NO_CAPTURE, "1", "1"]
    assert [graph.capture_of(there) for _ in range(3)] == [NO_CAPTURE, NO_CAPTURE, "2"]
    assert graph.capture_of(here) == "1"
    many = [[graph.capture_of((("x", number, ()),)) for _ in range(3)][-1] for number in range(100, 200)]
    assert many[29:31] == ["32", NO_CAPTURE]


def test_options_of_the_provider(llm: Callable[..., CudaOnnxGraph]) -> None:
    options = llm(arena_gb=1.5, cuda_graphs=True).session.providers[CUDA_PROVIDER]
    expected = {"device_id": "0", "user_compute_stream": "77", "gpu_mem_limit": "1500000000", "enable_cuda_graph": "1"}
    assert expected.items() <= options.items()
    assert all(isinstance(value, str) for value in options.values())


def test_a_graph_that_would_run_on_the_cpu_is_refused_unless_allowed(
    llm: Callable[..., CudaOnnxGraph], caplog: pytest.LogCaptureFixture
) -> None:
    assert llm().placement[CUDA_PROVIDER]["MatMul"] > 0
    assert CPU_PROVIDER in llm(lacks=("Shape", "Gather")).placement, "arithmetic on shapes may be on the CPU"
    with pytest.raises(
        DeviceError, match=r"llm_step\.onnx: .*MatMul.* would run on the CPU.*--device cuda:0,allow-cpu"
    ):
        llm(lacks=("MatMul",))
    llm(lacks=("MatMul",), allow_cpu=True)
    assert "run on the CPU" in caplog.text


def test_without_the_provider(tiny_bundle: Path, fake_gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    install_onnxruntime(monkeypatch, cuda=False)
    spec = read_manifest(tiny_bundle).specs["llm_step"]
    with pytest.raises(BundleError, match="this onnxruntime has no CUDAExecutionProvider; see bestow-edge doctor"):
        CudaOnnxGraph(tiny_bundle / "llm_step.onnx", spec, fake_gpu, threads=1)
