"""Checks of a bundle on a GPU: parity with the CPU, time of each graph, concurrent streams, memory.

Each check ends in a finding: passed, failed, or skipped with the reason. A failed check does not stop the others. The
report is one file that can be attached to a bug report. A route is a way to run a bundle on a GPU: the function that
loads its graphs.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from bestow_edge import __version__
from bestow_edge.core.bundle import BundleManifest, check_files, read_manifest
from bestow_edge.core.comparison import relative_error
from bestow_edge.core.embedded import embedded_bundle
from bestow_edge.core.errors import ConfigError, DeviceError, EngineError, MissingExtraError
from bestow_edge.core.tensors import FOR_ENGINES
from bestow_edge.evaluation.report.hardware import describe_machine, installed
from bestow_edge.evaluation.run.listening import listen, sample_speech
from bestow_edge.runtime.devices.backend import GraphFiles
from bestow_edge.runtime.devices.base import CPU, Array, Graph, Graphs
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph, import_onnxruntime
from bestow_edge.runtime.devices.onnx_cuda import CUDA_PROVIDER, cuda_graphs, open_gpu
from bestow_edge.runtime.devices.opening import parse_device
from bestow_edge.runtime.devices.tensorrt.engines import Settings
from bestow_edge.runtime.devices.tensorrt.serving import EngineServing
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import TOLERANCES, read_golden

State = Literal["ok", "failed", "not done"]
Load = Callable[[GraphFiles, CudaDevice], Graphs]
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "cuda-bindings", "numpy", "tensorrt", "tensorrt-cu13", "torch")
NO_GPU = "no GPU that this installation can use"
WARM_UP = 5  # runs before the timed ones: libraries choose kernels, CUDA graphs are captured
SAME_WORDS = 0.9  # least share of equal words: in float16 a close decision may differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    state: State
    detail: str
    """Figures, or the reason for a failure or an omission."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFigures:
    """Error and times of one graph on one route."""

    route: str
    graph: str
    error: float
    """Largest difference from the CPU's outputs over the largest value."""
    cpu_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(kw_only=True, slots=True)
class GpuReport:
    """The report of all checks, in the form in which it is stored."""

    made: str
    """Time of the report, UTC."""
    bestow_edge: str = __version__
    python: str = platform.python_version()
    machine: dict[str, str | int] = field(default_factory=describe_machine)
    versions: dict[str, str] = field(default_factory=dict)
    """Installed versions of `DISTRIBUTIONS`."""
    gpu: dict[str, str | int] = field(default_factory=dict)
    """Properties of the GPU from the CUDA runtime; empty without a GPU."""
    driver: str = ""
    """Output of nvidia-smi; empty if it is not installed."""
    bundle: str = ""
    findings: list[Finding] = field(default_factory=list)
    graphs: list[GraphFigures] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(finding.state == "failed" for finding in self.findings)

    def pack(self, path: Path) -> None:
        """Write the report to a file."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """Settings of the checks."""

    bundle: Path | None = None
    """None = the embedded demo. It is made for CPUs, so some of its operators run on the CPU."""
    reference: Path | None = None
    """fp32 bundle of the same checkpoint, run on the CPU for comparison; None = the bundle itself."""
    device: str = "cuda:0"
    runs: int = 50
    """Timed runs of each graph."""
    streams: tuple[int, ...] = (1,)
    """Numbers of concurrent streams to try."""
    speech_s: float = 20.0
    """Speech that each stream hears."""


class SkippedError(Exception):
    """A check is not possible here. The message gives the reason."""


def load_onnx(files: GraphFiles, device: CudaDevice) -> Graphs:
    """Load a bundle's graphs in onnxruntime on a GPU.

    Raises:
        SkippedError: if this onnxruntime has no CUDA.
    """
    if CUDA_PROVIDER not in import_onnxruntime().get_available_providers():
        raise SkippedError("this onnxruntime has no CUDA; pip uninstall -y onnxruntime, pip install 'bestow-edge[gpu]'")
    return cuda_graphs(files, device)


def load_engines(files: GraphFiles, device: CudaDevice, kind: str) -> Graphs:
    """Load a bundle's engines for TensorRT or TensorRT for RTX, which must be built.

    Raises:
        SkippedError: if an engine or the library is missing, or the library has no such GPU.
    """
    if files.manifest.target not in FOR_ENGINES:
        raise SkippedError(f"a bundle for {files.manifest.target}; export its checkpoint with --target tensorrt or rtx")
    try:
        engines = EngineServing(files, device, Settings(), kind=kind).load_any()
    except (EngineError, MissingExtraError) as error:
        raise SkippedError(str(error)) from error
    if engines is None:
        raise SkippedError("no engines of this bundle for this machine; first: bestow-edge engines build BUNDLE")
    return engines


ROUTES: dict[str, Load] = {
    "onnxruntime CUDA": load_onnx,
    "TensorRT": partial(load_engines, kind="tensorrt"),
    "TensorRT for RTX": partial(load_engines, kind="rtx"),
}
"""Ways to run a bundle on a GPU, by name."""


def examine(asked: Examination, progress: Callable[[str], None]) -> GpuReport:
    """Check a GPU, and a bundle on it.

    Args:
        asked: settings of the checks.
        progress: called with the name of each check.

    Raises:
        ConfigError: if the device is not a GPU.
    """
    directory = embedded_bundle("demo") if asked.bundle is None else asked.bundle
    report = GpuReport(made=datetime.now(UTC).isoformat(timespec="seconds"), bundle=str(directory))
    progress("looking for a GPU")
    report.versions, report.driver = installed(DISTRIBUTIONS), _nvidia_smi()
    device = _open(report, asked)
    _check_provider(report)
    for route, load in ROUTES.items():
        if device is None:
            for check in ("parity and time of each graph", "texts of a stream", "streams at once", "memory"):
                report.findings.append(Finding(check=f"{route}: {check}", state="not done", detail=NO_GPU))
            continue
        _Route(report, asked, directory, device, progress).check(route, load)
    return report


@dataclass(frozen=True, slots=True)
class _Route:
    """The checks of one way to run a bundle."""

    report: GpuReport
    asked: Examination
    directory: Path
    device: CudaDevice
    progress: Callable[[str], None]

    def check(self, route: str, load: Load) -> None:
        """Check graphs, texts, streams and memory."""
        free, total = self.device.memory()
        graphs: Graphs = {}
        with self._finding(f"{route}: bundle") as figures:
            manifest = read_manifest(self.directory)
            check_files(self.directory, manifest, hashes=False)
            graphs = load(GraphFiles(directory=self.directory, manifest=manifest), self.device)
            figures.append(_placements(graphs))
        if not graphs:
            return
        for name, graph in graphs.items():
            with self._finding(f"{route}: {name} as on the CPU") as figures:
                figures.append(self._compare(route, name, graph, manifest))
        with self._finding(f"{route}: texts of a stream") as figures:
            figures.append(self._texts(graphs, manifest))
        for count in self.asked.streams:
            with self._finding(f"{route}: {count} streams at once") as figures:
                figures.append(self._streams(graphs, manifest, count))
        with self._finding(f"{route}: memory") as figures:
            used = free - self.device.memory()[0]
            figures.append(f"{used / 1e9:.2f} GB used by graphs and streams, of {total / 1e9:.1f} GB")

    @contextmanager
    def _finding(self, check: str) -> Iterator[list[str]]:
        """Record the outcome of a check. The block appends its figures to the list."""
        self.progress(check)
        figures: list[str] = []
        try:
            yield figures
        except SkippedError as error:
            self.report.findings.append(Finding(check=check, state="not done", detail=str(error)))
        except Exception as error:  # noqa: BLE001 - every error of a GPU belongs in the report, and the other checks go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.500}"
            self.report.findings.append(Finding(check=check, state="failed", detail=reason))
        else:
            self.report.findings.append(Finding(check=check, state="ok", detail="; ".join(figures)))

    def _compare(self, route: str, name: str, graph: Graph, manifest: BundleManifest) -> str:
        """Run the golden inputs of a graph on CPU and GPU, and compare outputs and times."""
        directory = self.directory if self.asked.reference is None else self.asked.reference
        known = manifest if self.asked.reference is None else read_manifest(directory)
        feeds = read_golden(directory, known, name)
        cpu = OnnxGraph(directory / known.graphs[name].file, known.specs[name], threads=0)
        expected, cpu_ms = _timed(cpu, feeds, min(self.asked.runs, 10))
        outputs, times = _timed(graph, feeds, self.asked.runs)
        error = relative_error(outputs, expected)
        p50, p95 = (float(np.percentile(times, share)) for share in (50, 95))
        self.report.graphs.append(
            GraphFigures(route=route, graph=name, error=error, cpu_ms=float(np.median(cpu_ms)), p50_ms=p50, p95_ms=p95)
        )
        allowed = max(TOLERANCES[bundle.graphs[name].precision] for bundle in (manifest, known))
        if not error <= allowed:
            raise DeviceError(f"differs from the CPU by {error:.1e}, allowed are {allowed:.0e}")
        return f"error {error:.1e} of {allowed:.0e}; {p50:.2f} ms (p95 {p95:.2f}), CPU {np.median(cpu_ms):.2f} ms"

    def _texts(self, graphs: Graphs, manifest: BundleManifest) -> str:
        """Compare the texts of a session on CPU and GPU."""
        gpu = _model(self.directory, manifest, graphs)
        cpu = Model(self.directory, manifest, device="cpu", threads=0)
        (got, _), (want, _) = (_hear(model, self.asked.speech_s) for model in (gpu, cpu))
        same = SequenceMatcher(None, got.split(), want.split(), autojunk=False).ratio()
        if same < SAME_WORDS:
            raise DeviceError(f"{same:.0%} of the words are the CPU's; it writes {want!r:.200}, the GPU {got!r:.200}")
        return f"{same:.0%} of {len(got.split())} words are the CPU's"

    def _streams(self, graphs: Graphs, manifest: BundleManifest, count: int) -> str:
        """Run the same speech in several concurrent streams."""
        model = _model(self.directory, manifest, graphs)
        _hear(model, self.asked.speech_s)
        started = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            audio_s = sum(seconds for _, seconds in pool.map(_hear, [model] * count, [self.asked.speech_s] * count))
        spent_s = time.perf_counter() - started
        return f"{spent_s / (audio_s / count):.3f} of real time for all, {audio_s / spent_s:.1f} streams at most"


def _open(report: GpuReport, asked: Examination) -> CudaDevice | None:
    """Open the GPU; the embedded demo may use the CPU for what has no kernel."""
    name = parse_device(asked.device)
    if name.backend != "cuda":
        raise ConfigError(f"device {asked.device!r}: expected a GPU, such as cuda:0")
    if asked.bundle is None:
        name = replace(name, options=(*name.options, "allow-cpu"))
    try:
        device = open_gpu(name)
    except (DeviceError, MissingExtraError) as error:
        report.findings.append(Finding(check="GPU", state="not done", detail=str(error)))
        return None
    report.gpu = device.properties()
    found = f"{report.gpu['gpu']}, compute capability {report.gpu['compute_capability']}"
    report.findings.append(Finding(check="GPU", state="ok", detail=found))
    return device


def _check_provider(report: GpuReport) -> None:
    try:
        providers = ", ".join(import_onnxruntime().get_available_providers())
    except MissingExtraError as error:
        report.findings.append(Finding(check="onnxruntime", state="not done", detail=str(error)))
    else:
        report.findings.append(Finding(check="onnxruntime", state="ok", detail=f"providers: {providers}"))


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,temperature.gpu"
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own program, with constant arguments
            [program, query, "--format=csv"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def _placements(graphs: Graphs) -> str:
    """Return how many operators of each graph run on which provider. Only onnxruntime reports it."""
    lines = []
    for name, graph in graphs.items():
        placement: dict[str, dict[str, int]] = getattr(graph, "placement", {})
        for provider, operators in placement.items():
            lines.append(f"{name}: {sum(operators.values())} operators on {provider}")
    return "; ".join(lines) or "loaded"


def _timed(graph: Graph, feeds: Mapping[str, Array], runs: int) -> tuple[dict[str, Array], list[float]]:
    """Return the outputs of a graph on the host, and the time of each run in milliseconds."""
    runner = graph.runner()
    given = {tensor.name: feeds[tensor.name].astype(tensor.dtype) for tensor in graph.spec.fed}
    runner.bind(given if graph.device is CPU else {name: graph.device.put(array) for name, array in given.items()})
    times = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        outputs = runner.run()
        graph.device.get()
        times.append((time.perf_counter() - started) * 1000)
    names = list(outputs)
    return dict(zip(names, graph.device.get(*(outputs[name] for name in names)), strict=True)), times[WARM_UP:]


def _model(directory: Path, manifest: BundleManifest, graphs: Graphs) -> Model:
    """Return a model that runs the given graphs."""
    model = Model(directory, manifest, device="cpu", threads=0)
    model.take_graphs(graphs)
    return model


def _hear(model: Model, speech_s: float) -> tuple[str, float]:
    """Return the text that a model writes for the packaged speech, and the length of the speech in seconds."""
    session, rate_hz = model.multi_session([(model.config.pairs[0], model.default_policy)]), model.sample_rate_hz
    heard = listen(session, sample_speech(rate_hz, speech_s), rate_hz)
    return heard.text, heard.length_ms / 1000
