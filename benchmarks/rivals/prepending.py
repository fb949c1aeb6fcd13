"""Speech as cross-attention (BESTOW) or prepended to the LLM's sequence: time and memory of the same graphs.

    python benchmarks/rivals/prepending.py BUNDLE WAY SECONDS [--threads 1]

WAY `cross`: the speech lies in the adapter's memory, the prompt was run before the audio; the first token is one step
of adapter and LLM, and so is every other. WAY `prepend`: every encoder step is a position of the LLM (12.5 a second),
before the prompt; the first token needs a prefill of all of them. Speech is random: values do not change the time.
One process for each way and length, so that memory is its own. Prints one JSON line.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import report

from bestow_edge.core.bundle import BundleManifest, read_manifest
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.cross_adapter import KEYS, VALUES, cross_adapter
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import CACHE
from bestow_edge.runtime.decoders.base import open_decoder
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph
from bestow_edge.runtime.encoders.base import SpeechSteps

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FLOAT_BYTES = 4


class Way(Protocol):
    """A text about speech that was heard whole."""

    def first(self) -> None:
        """Run what is left to run until the first token is known."""

    def next(self) -> None:
        """Run one more token."""

    def speech_bytes_per_step(self) -> int:
        """Return what keys and values of one encoder step take."""


class Prepended:
    """Speech and prompt in the LLM's sequence."""

    def __init__(self, manifest: BundleManifest, graphs: dict[str, Graph], steps: int) -> None:
        """Prepare that many steps of speech."""
        self._llm, self._spec = CachedGraph(graphs[LLM], 1), manifest.specs[LLM]
        positions = steps + len(manifest.prompts[manifest.model.pairs[0]])
        hidden = manifest.model.llm["hidden_size"]
        self._embeds = np.random.default_rng(0).standard_normal((1, positions, hidden)).astype(np.float32)

    def first(self) -> None:
        """Prefill."""
        self._run(self._embeds)

    def next(self) -> None:
        """Run one token behind it."""
        self._run(self._embeds[:, :1])

    def speech_bytes_per_step(self) -> int:
        """Return what keys and values of one position take in all layers."""
        caches = [tensor.axes for tensor in self._spec.inputs if tensor.name.startswith(CACHE)]
        return sum(int(heads) * int(head_dim) * FLOAT_BYTES for _, heads, _, head_dim in caches)

    def _run(self, embeds: np.ndarray) -> None:
        self._llm.run({"inputs_embeds": np.ascontiguousarray(embeds)}, embeds.shape[1])
        self._llm.past_tokens += embeds.shape[1]


class CrossAttended:
    """Speech in the adapter's memory."""

    def __init__(self, manifest: BundleManifest, graphs: dict[str, Graph], steps: int) -> None:
        """Hear that many steps of speech, and run the prompt."""
        adapter = cross_adapter(manifest.model)
        shape = (adapter.num_layers, 1, adapter.num_heads, steps, adapter.head_dim)
        keys, values = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
        prompt = manifest.prompts[manifest.model.pairs[0]]
        self._decoder = open_decoder(graphs, manifest, [prompt])
        self._decoder.hear(SpeechSteps({KEYS: keys, VALUES: values}, 0, steps))
        self._visible, self._adapter = steps, adapter

    def first(self) -> None:
        """Run one token, as all others."""
        self.next()

    def next(self) -> None:
        """Try a token and write it."""
        (attempt,) = self._decoder.attempt([self._visible])
        self._decoder.commit(0, attempt.token_id)

    def speech_bytes_per_step(self) -> int:
        """Return what keys and values of one step take in all layers."""
        return 2 * self._adapter.num_layers * self._adapter.width * FLOAT_BYTES


WAYS: dict[str, Any] = {"cross": CrossAttended, "prepend": Prepended}  # Any: classes of one protocol


def resident_bytes(key: str) -> int | None:
    """Return a line of the process's status, such as VmHWM, bytes; None where the system has none."""
    if not STATUS.is_file():
        return None
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def forget_peak() -> int | None:
    """Let the peak begin anew at what is resident now, and return that; None where the system cannot."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return None
    return resident_bytes("VmRSS")


def main() -> None:
    """Measure one way at one length."""
    parser = report.parser(__doc__, "bundle")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    manifest = read_manifest(args.bundle)
    graphs = {
        name: OnnxGraph(args.bundle / manifest.graphs[name].file, manifest.specs[name], threads=args.threads)
        for name in (ADAPTER, LLM)
    }
    warm_up = WAYS[args.way](manifest, graphs, report.WARM_UP)
    report.times_ms(warm_up.next, 1)
    steps = round(args.seconds / manifest.model.step_s)
    way: Way = WAYS[args.way](manifest, graphs, steps)
    before = forget_peak()
    started = time.perf_counter()
    way.first()
    first_ms = (time.perf_counter() - started) * 1000
    grown = None if before is None else (resident_bytes("VmHWM") or before) - before
    times = report.times_ms(way.next, args.runs)
    memory = {"first_grown_bytes": grown, "speech_bytes": steps * way.speech_bytes_per_step()}
    report.tell(seconds=args.seconds, steps=steps, first_ms=first_ms, **report.summary(times), **memory)


if __name__ == "__main__":
    main()
