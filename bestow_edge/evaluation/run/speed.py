"""Speed of a bundle on this machine: times of the graphs, real-time factor, lag and memory of a stream.

Audio is fed without waiting for real time. The time at which a text would have appeared is the audio fed until then
plus the computing time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import GraphSpec
from bestow_edge.evaluation.report.hardware import usable_cores
from bestow_edge.evaluation.run.listening import Heard, listen
from bestow_edge.evaluation.scores.lag import length_adaptive_average_lagging
from bestow_edge.runtime.devices.base import CPU, Buffer, Graph, Runner
from bestow_edge.runtime.model import Model

READ_BYTES = 512 << 20  # array read to measure bandwidth, larger than any cache
READS = 5
PREFILL = " prefill"  # suffix of runs with several tokens: prompts and guesses, as opposed to single steps


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphTimes:
    """Times of the runs of one graph, milliseconds."""

    graph: str
    runs: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    share: float
    """Share of the time of all graphs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Measurements of one stream."""

    graphs: tuple[GraphTimes, ...]
    audio_s: float
    computing_s: float
    rtf: float
    """Real-time factor: computing time over audio."""
    first_text_s: float | None
    """From the start of the audio to the first text, computing included; None = no text came."""
    tokens: int
    laal_ms: float | None
    """Length-adaptive average lagging of the pieces of text, without computing time."""
    lag_ms: float | None
    """Lag added by computing: computation-aware LAAL minus LAAL."""
    llm_bytes: int
    """Size of the LLM graph, which each token reads once."""
    bandwidth_gb_s: float | None
    """Memory bandwidth with a thread for each core, 1e9 bytes a second; None for graphs on a GPU."""
    llm_reads: float | None
    """Median LLM step over the time to read `llm_bytes` once; None for graphs on a GPU and without steps."""
    peak_memory_gb: float | None
    """Peak of the whole process so far, 1e9 bytes; None where the system does not report it."""


class TimedGraph:
    """A loaded graph that records the time of its runs."""

    def __init__(self, graph: Graph, times: dict[str, list[float]]) -> None:
        """Time a graph into `times`, seconds by name."""
        self.spec, self.device = graph.spec, graph.device
        self._graph, self._times = graph, times

    def runner(self) -> Runner:
        """Return a timed runner with its own bindings."""
        return _TimedRunner(self._graph, self._times)


class _TimedRunner:
    def __init__(self, graph: Graph, times: dict[str, list[float]]) -> None:
        self._runner, self._device = graph.runner(), graph.device
        self._spec, self._times = graph.spec, times
        self._tokens = 1

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        self._runner.bind(tensors)
        self._tokens = _tokens(self._spec, tensors) or self._tokens

    def run(self) -> Mapping[str, Buffer]:
        started = time.perf_counter()
        out = self._runner.run()
        self._device.get()  # waits for the GPU, where a run is asynchronous
        name = self._spec.name + (PREFILL if self._tokens > 1 else "")
        self._times[name].append(time.perf_counter() - started)
        return out


def _tokens(spec: GraphSpec, tensors: Mapping[str, Buffer]) -> int:
    """Return the size of the axis `tokens` of the bound inputs, 0 if no input has it."""
    for tensor in spec.inputs:
        if tensor.name in tensors and "tokens" in tensor.axes:
            return int(tensors[tensor.name].shape[tensor.axes.index("tokens")])
    return 0


def measure(model: Model, waveform: npt.NDArray[np.float32], **session: Any) -> Speed:
    """Run one session and measure it. Earlier runs of the process count only in the peak of memory.

    Args:
        model: the loaded bundle. Its graphs are replaced by timed ones.
        waveform: (samples,) float32 at the model's rate.
        **session: arguments of `Model.session`.
    """  # Any above: they are passed through
    times: dict[str, list[float]] = defaultdict(list)
    model.take_graphs({name: TimedGraph(graph, times) for name, graph in model.graphs.items()})
    started = time.perf_counter()
    opened = model.session(**session)
    prefill_ms = (time.perf_counter() - started) * 1000
    heard = listen(opened, waveform, model.sample_rate_hz)
    peak = peak_memory_gb()  # before the array for the bandwidth is allocated
    bandwidth = read_bandwidth() if model.device is CPU else None
    steps = times.get(LLM) or times[LLM + PREFILL]  # where guesses are checked, no run has a single token
    llm = model.manifest.graphs[LLM].file
    llm_bytes = sum(entry.size for entry in model.manifest.files if entry.path.startswith(llm))
    audio_s, computing_s = heard.length_ms / 1000, (heard.computing_ms + prefill_ms) / 1000
    laal, aware = _lagging(heard)
    return Speed(
        graphs=tuple(_graph_times(name, values, times) for name, values in sorted(times.items())),
        audio_s=audio_s,
        computing_s=computing_s,
        rtf=computing_s / audio_s,
        first_text_s=heard.pieces[0][2] / 1000 if heard.pieces else None,
        tokens=len(steps),
        laal_ms=laal,
        lag_ms=None if laal is None or aware is None else aware - laal,
        llm_bytes=llm_bytes,
        bandwidth_gb_s=bandwidth,
        llm_reads=None if bandwidth is None or not steps else float(np.median(steps)) / (llm_bytes / bandwidth / 1e9),
        peak_memory_gb=peak,
    )


def read_bandwidth() -> float:
    """Return the memory bandwidth of this process, 1e9 bytes a second: the best of several reads with all cores."""
    parts = np.array_split(np.ones(READ_BYTES // 8), usable_cores())
    best = float("inf")
    for _ in range(READS):
        threads = [threading.Thread(target=part.sum) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - started)
    return READ_BYTES / best / 1e9


def peak_memory_gb() -> float | None:
    """Return the peak of this process's memory, 1e9 bytes; None on Windows."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def _graph_times(name: str, values: Sequence[float], times: Mapping[str, Sequence[float]]) -> GraphTimes:
    ms = [value * 1000 for value in values]
    return GraphTimes(
        graph=name,
        runs=len(ms),
        p50_ms=float(np.median(ms)),
        p95_ms=float(np.percentile(ms, 95)),
        max_ms=max(ms),
        share=sum(values) / sum(map(sum, times.values())),
    )


def _lagging(heard: Heard) -> tuple[float | None, float | None]:
    """Return LAAL of the pieces of text without and with computing, ms."""
    if not heard.pieces:
        return None, None
    _, delays, elapsed = zip(*heard.pieces, strict=True)
    plain, aware = (length_adaptive_average_lagging(t, heard.length_ms, len(delays)) for t in (delays, elapsed))
    return plain, aware
