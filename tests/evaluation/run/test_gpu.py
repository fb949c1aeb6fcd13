"""The checks of a GPU: on one whose memory is the host's, on a machine without any, and where something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import install_cuda
from fake_onnxruntime import install_onnxruntime
from fake_tensorrt import VERSIONS, fake_tensorrt

from bestow_edge.core.errors import ConfigError
from bestow_edge.evaluation.run import gpu
from bestow_edge.evaluation.run.gpu import Examination, GpuReport, examine
from bestow_edge.runtime import load
from bestow_edge.runtime.devices.base import CPU

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checked(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GpuReport]:
    """Examine the tiny bundle on a fake GPU, with two seconds of speech."""
    install_onnxruntime(monkeypatch)
    install_cuda(monkeypatch)
    asked = {"bundle": tiny_bundle, "runs": 2, "streams": (1, 2), "speech_s": 2.0}
    return lambda **options: examine(Examination(**(asked | options)), lambda _: None)


def states(report: GpuReport) -> dict[str, str]:
    return {finding.check: finding.state for finding in report.findings}


def test_everything_is_checked_on_a_gpu(checked: Callable[..., GpuReport], tmp_path: Path) -> None:
    report = checked(device="cuda:0,graphs")
    found = states(report)
    assert found.pop("TensorRT: bundle") == found.pop("TensorRT for RTX: bundle") == "not done"
    assert list(found) == [
        "GPU",
        "onnxruntime",
        "onnxruntime CUDA: bundle",
        "onnxruntime CUDA: encoder_chunk as on the CPU",
        "onnxruntime CUDA: adapter_step as on the CPU",
        "onnxruntime CUDA: llm_step as on the CPU",
        "onnxruntime CUDA: texts of a stream",
        "onnxruntime CUDA: 1 streams at once",
        "onnxruntime CUDA: 2 streams at once",
        "onnxruntime CUDA: memory",
    ]
    assert set(found.values()) == {"ok"}, report.findings
    assert not report.failed
    assert [row.graph for row in report.graphs] == ["encoder_chunk", "adapter_step", "llm_step"]
    assert all(0 < row.p50_ms <= row.p95_ms and row.error == 0 for row in report.graphs)
    report.pack(tmp_path / "gpu.json")
    packed = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert packed["gpu"]["gpu"] == "Fake GPU"
    assert packed["findings"][0]["detail"] == "Fake GPU, compute capability 8.7"


def test_a_failing_check_stops_no_other(checked: Callable[..., GpuReport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "relative_error", lambda *_: 0.5)
    report = checked(streams=(1,))
    found = states(report)
    assert found["onnxruntime CUDA: llm_step as on the CPU"] == "failed"
    assert found["onnxruntime CUDA: texts of a stream"] == "ok"
    assert report.failed
    told = [finding.detail for finding in report.findings if finding.state == "failed"]
    assert told[0] == "DeviceError: differs from the CPU by 5.0e-01, allowed are 1e-03"


@pytest.mark.parametrize("number", [np.nan, np.inf, 0])
def test_outputs_that_are_none_fail(
    checked: Callable[..., GpuReport], monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    timed = gpu._timed

    def changed(graph: Any, feeds: Any, runs: int) -> Any:
        outputs, times = timed(graph, feeds, runs)
        if graph.device is not CPU:
            outputs = {key: np.full_like(array, number) if array.dtype.kind == "f" else array
                       for key, array in outputs.items()}  # fmt: skip
        return outputs, times

    monkeypatch.setattr(gpu, "_timed", changed)
    found = states(checked(streams=(1,)))
    assert {found[f"onnxruntime CUDA: {name} as on the CPU"] for name in ("adapter_step", "llm_step")} == {"failed"}


def test_a_bundle_that_does_not_load(checked: Callable[..., GpuReport], tmp_path: Path) -> None:
    report = checked(bundle=tmp_path)
    assert [finding.state for finding in report.findings] == ["ok", "ok", *["failed"] * len(gpu.ROUTES)]


@pytest.mark.parametrize("error", ["cuda.bindings is not installed", "device cuda:0: this machine has 0 GPUs"])
def test_without_a_gpu_it_says_what_was_not_done(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    install_cuda(monkeypatch, gpus=0)
    if "installed" in error:
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    report = examine(Examination(bundle=tiny_bundle), lambda _: None)
    found = [finding for finding in report.findings if finding.check != "onnxruntime"]
    assert {finding.state for finding in found} == {"not done"}
    assert found[0].detail.startswith(error)
    assert len(found) == 1 + 4 * len(gpu.ROUTES)
    assert not report.failed


def test_the_script_without_a_gpu(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.modules['cuda'] = None; runpy.run_path(sys.argv.pop(), run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cuda.bindings is not installed; run: pip install 'bestow-edge[gpu]'" in done.stdout
    assert "attach this file to a bug report: gpu_check.json" in done.stdout
    assert json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))["gpu"] == {}


@pytest.mark.slow
def test_the_reference_on_a_tiny_model() -> None:
    for package in ("torch", "transformers", "accelerate"):
        pytest.importorskip(package)
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_reference.py"),
        "--tiny",
        "--runs",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert {row["graph"] for row in record["rows"]} == {"encoder_chunk", "adapter_step", "llm_step"}
    assert len(record["rows"]) == 8


def test_a_device_that_is_no_gpu(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="device 'cpu': expected a GPU, such as cuda:0"):
        examine(Examination(bundle=tiny_bundle, device="cpu"), lambda _: None)


def test_a_gpu_without_what_runs_graphs_on_it(
    checked: Callable[..., GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_onnxruntime(monkeypatch, cuda=False)
    report = checked()
    told = {finding.check: finding.detail for finding in report.findings if finding.state == "not done"}
    assert "this onnxruntime has no CUDA; pip uninstall -y onnxruntime" in told["onnxruntime CUDA: bundle"]
    assert told["TensorRT: bundle"] == "a bundle for cpu; export its checkpoint with --target tensorrt or rtx"
    assert not report.failed


def test_engines_are_checked_once_they_are_built(
    checked: Callable[..., GpuReport], tensorrt_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_tensorrt(VERSIONS[0])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = checked(bundle=tensorrt_bundle, streams=(1,))
    told = {finding.check: finding.detail for finding in first.findings if finding.state == "not done"}
    assert (
        told["TensorRT: bundle"]
        == "no engines of this bundle for this machine; first: bestow-edge engines build BUNDLE"
    )
    model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    assert model.upgrade is not None
    assert model.upgrade.wait(60)
    report = checked(bundle=tensorrt_bundle, streams=(1,))
    assert not report.failed, report.findings
    assert states(report)["TensorRT: llm_step as on the CPU"] == "ok"
    assert [row.route for row in report.graphs] == ["onnxruntime CUDA"] * 3 + ["TensorRT"] * 3
