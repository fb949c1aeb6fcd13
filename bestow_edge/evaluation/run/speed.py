"""How fast a bundle runs on this machine: each graph, a whole stream, its lag and its memory.

Audio is given as if a microphone had recorded it, but without waiting; what came when follows from the computing it
took. It knows bundles and recordings, not tables.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
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

READ_BYTES = 512 << 20  # of the array read to measure bandwidth: more than any cache
READS = 5
PREFILL = " prefill"  # of a prompt, apart from the steps of single tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphTimes:
    """Runs of one graph, milliseconds."""

    graph: str
    runs: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    share: float
    """Of the time of all graphs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured on one stream."""

    graphs: tuple[GraphTimes, ...]
    audio_s: float
    computing_s: float
    rtf: float
    """Computing over audio."""
    first_text_s: float | None
    """From the start of the audio to the first text, waiting for both audio and computing; None without any text."""
    tokens: int
    laal_ms: float | None
    """Length-adaptive average lagging of the texts' pieces behind the audio alone."""
    lag_ms: float | None
    """What computing adds to it: computation-aware minus non-computation-aware LAAL."""
    llm_bytes: int
    """Of the LLM graph: what a token has to read."""
    bandwidth_gb_s: float | None
    """Measured by reading an array with as many threads as cores, 1e9 bytes a second; None for graphs on a GPU."""
    llm_reads: float | None
    """LLM step (p50) over the time to read its bytes once; None for graphs on a GPU and without steps."""
    peak_memory_gb: float | None
    """Of the whole process so far, 1e9 bytes; None where the system does not tell."""


class TimedGraph:
    """A loaded graph whose runs are timed."""

    def __init__(self, graph: Graph, times: dict[str, list[float]]) -> None:
        """Time a graph into `times`, seconds by name."""
        self.spec, self.device = graph.spec, graph.device
        self._graph, self._times = graph, times

    def runner(self) -> Runner:
        """Return a runner with bindings of its own."""
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
        self._device.get()  # on a GPU a run has only been asked for until now
        name = self._spec.name + (PREFILL if self._tokens > 1 else "")
        self._times[name].append(time.perf_counter() - started)
        return out


def _tokens(spec: GraphSpec, tensors: Mapping[str, Buffer]) -> int:
    """Return the size of the axis `tokens` of the inputs given, 0 if none has it."""
    sizes = [
        tensors[t.name].shape[t.axes.index("tokens")] for t in spec.inputs if t.name in tensors and "tokens" in t.axes
    ]
    return max(sizes, default=0)


def measure(model: Model, waveform: npt.NDArray[np.float32], **session: Any) -> Speed:
    """Run one session and measure it; whatever was measured before is not in it, but for the peak of memory.

    Args:
        model: the loaded bundle; its graphs are timed from then on.
        waveform: (samples,) float32 at the model's rate.
        **session: arguments of `Model.session`.
    """  # Any above: they are passed through
    times: dict[str, list[float]] = defaultdict(list)
    model.take_graphs({name: TimedGraph(graph, times) for name, graph in model.graphs.items()})
    started = time.perf_counter()
    opened = model.session(**session)
    prefill_ms = (time.perf_counter() - started) * 1000
    heard = listen(opened, waveform, model.sample_rate_hz)
    peak = peak_memory_gb()  # before an array is read to measure bandwidth
    bandwidth = read_bandwidth() if model.device is CPU else None
    steps = times[LLM]
    llm = model.manifest.graphs[LLM].file
    llm_bytes = sum(entry.size for entry in model.manifest.files if entry.path.startswith(llm))
    audio_s, computing_s = heard.length_ms / 1000, (heard.computing_ms + prefill_ms) / 1000
    laal, aware = _lagging(heard)
    return Speed(
        graphs=tuple(_graph_times(name, values, times) for name, values in sorted(times.items())),
        audio_s=audio_s,
        computing_s=computing_s,
        rtf=computing_s / audio_s,
        first_text_s=_first_text_s(heard),
        tokens=len(steps),
        laal_ms=laal,
        lag_ms=None if laal is None or aware is None else aware - laal,
        llm_bytes=llm_bytes,
        bandwidth_gb_s=bandwidth,
        llm_reads=None if bandwidth is None or not steps else float(np.median(steps)) / (llm_bytes / bandwidth / 1e9),
        peak_memory_gb=peak,
    )


def read_bandwidth() -> float:
    """Return how fast this process reads memory, 1e9 bytes a second: the best of several reads with all cores."""
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
    """Return the most memory this process has had, 1e9 bytes."""
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
        p95_ms=quantiles(ms, n=20)[-1] if len(ms) > 1 else ms[0],
        max_ms=max(ms),
        share=sum(values) / sum(map(sum, times.values())),
    )


def _first_text_s(heard: Heard) -> float | None:
    return heard.pieces[0][2] / 1000 if heard.pieces else None


def _lagging(heard: Heard) -> tuple[float | None, float | None]:
    """Return LAAL of the pieces of text without and with computing, ms."""
    if not heard.pieces:
        return None, None
    _, delays, elapsed = zip(*heard.pieces, strict=True)
    plain, aware = (length_adaptive_average_lagging(t, heard.length_ms, len(delays)) for t in (delays, elapsed))
    return plain, aware
