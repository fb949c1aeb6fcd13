"""The decoder of a bundle behind 15 to 120 s of speech: first token, next tokens, memory. The encoder does not run.

Speech is random, so the text means nothing; times and sizes depend on neither. All of the speech is there when the
first token is asked for, as in the paper's section 4.4.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.request import default_policy
from bestow_edge.core.tensors import BATCH, STEPS, TensorSpec
from bestow_edge.runtime import load
from bestow_edge.runtime.encoders.base import SpeechSteps

TOKENS = 20  # behind the first
REPEATS = 5


def by_length(bundle: Path, lengths_s: Sequence[float]) -> dict[str, dict[str, float]]:
    """Return first token (ms), each next token (ms) and memory of the caches (MB) for each length of speech."""
    model = load(bundle, threads=1)
    measured = {}
    for length_s in lengths_s:
        steps = round(length_s / model.config.step_s)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        kept = _measure(model, steps)[0]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()  # it slows the rest down
        del kept
        times = np.min([_measure(model, steps)[1:] for _ in range(REPEATS)], axis=0)  # the rest is other work
        sizes = {"mb": (after - before) / 1e6}
        measured[str(length_s)] = {"first_ms": float(times[0]), "next_ms": float(times[1]), **sizes}
    return measured


def _measure(model: Any, steps: int) -> tuple[Any, float, float]:
    """Return a decoder that has written, and its times."""
    specs = CONNECTORS[model.config.connector.kind].speech(model.config)
    speech = SpeechSteps({spec.name: _random(spec, steps) for spec in specs}, 0, steps)
    prompt = next(iter(model.manifest.prompts.values()))
    condition = model.condition(default_policy(None, model.config.policy))
    decoder = model.open_decoder(model.graphs, [[*prompt, *condition]])
    began_s = time.perf_counter()
    decoder.hear(speech)
    decoder.attempt([steps])
    first_s = time.perf_counter() - began_s
    del speech
    began_s = time.perf_counter()
    for token in range(TOKENS):
        decoder.commit(0, 300 + token % 5)
        decoder.attempt([steps])
    return decoder, 1000 * first_s, 1000 * (time.perf_counter() - began_s) / TOKENS


def _random(spec: TensorSpec, steps: int) -> Any:
    shape = [{BATCH: 1, STEPS: steps}.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.axes]
    if spec.dtype == "int64":  # where the positions of a compressor end: half as many as there are steps
        ends = np.zeros(shape, dtype=np.int64)
        ends[..., : steps // 2] = 2 * np.arange(1, steps // 2 + 1)
        return ends
    return 0.05 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
