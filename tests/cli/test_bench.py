"""`bestow-edge bench`: what it measures adds up, and scripts can read it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.evaluation.run.speed import PREFILL, measure, read_bandwidth
from bestow_edge.runtime import load
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.audio.files import read_audio


def test_what_is_measured_adds_up() -> None:
    waveform = np.tile(read_audio(sample_manifest().parent / "en_01.ogg", 16000), 3)
    speed = measure(load("demo", threads=1), waveform, source="en", k=3)
    runs = {row.graph: row.runs for row in speed.graphs}
    assert set(runs) == {ENCODER, ADAPTER, LLM, ADAPTER + PREFILL, LLM + PREFILL}
    assert runs[ADAPTER] == runs[LLM] == speed.tokens
    assert runs[ENCODER] >= waveform.size / 16000 / 1.12
    assert sum(row.share for row in speed.graphs) == pytest.approx(1)
    assert all(0 < row.p50_ms <= row.p95_ms * 1.001 for row in speed.graphs if row.runs > 20)
    assert sum(row.runs * row.p50_ms for row in speed.graphs) < 2000 * speed.computing_s
    assert speed.rtf == pytest.approx(speed.computing_s / speed.audio_s)
    assert speed.first_text_s is not None
    assert speed.lag_ms is not None
    assert speed.first_text_s > 1.1  # the first chunk: 3 blocks of 4 steps and 2 steps more
    assert 0 < speed.lag_ms < 1000 * speed.computing_s
    assert speed.peak_memory_gb is None or 0.05 < speed.peak_memory_gb < 8


def test_bandwidth_is_one_of_memory() -> None:
    assert 0.5 < read_bandwidth() < 5000


def test_table_and_json(cli: Callable[..., Any]) -> None:
    done = cli("bench", "--seconds", "4", "--lang", "de-en", "--k", "3")
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert any("encoder_chunk" in line for line in table)
    assert any("real-time factor" in line for line in table)
    record = json.loads(last)
    assert record["pair"] == "de-en"
    assert record["audio_s"] == 4
    assert record["ready_s"] > 0
    alone = cli("bench", "--seconds", "4", "--json")
    assert json.loads(alone.stdout)["rtf"] > 0


def test_errors(cli: Callable[..., Any], tmp_path: Any) -> None:
    assert "not a bundle" in cli("bench", tmp_path).stderr
    gone = cli("bench", "--audio", "gone.wav")
    assert gone.returncode == 2
    assert "gone.wav" in gone.stderr
