"""benchmarks/paper_scale.py runs from end to end on a tiny model, as far as no other package is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "paper_scale.py"
NEEDED = ("accelerate", "matplotlib", "onnx", "onnxscript", "torch", "transformers")


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    env = dict(os.environ, OMP_NUM_THREADS="1")  # torch's threads wait for each other where others have the cores
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Figures, tables and folder of a run on a tiny model."""
    for package in NEEDED:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("paper_scale")
    parts = ("--parts", "stream,products,prompts,long,torch,nemo,prepend", "--plot", "curve.svg")
    done = run("--tiny", "--seconds", 5, "--runs", 2, "--threads", 1, *parts, folder=folder)
    assert done.returncode == 0, done.stderr
    tables, _, last = done.stdout.rstrip().rpartition("\n")
    return json.loads(last), tables, folder


@pytest.mark.slow
def test_every_part_measures_something(measured: tuple[dict[str, Any], str, Path]) -> None:
    figures, tables, folder = measured
    assert "error" not in json.dumps(
        [figures[part] for part in ("stream", "products", "prompts", "long", "torch", "prepend")]
    )
    assert figures["export"]["seconds"] > 1
    assert figures["export"]["peak_gb"] > 0.1
    assert list(figures["stream"]) == ["13", "6", "1", "0"]
    assert figures["products"]["llm_step"]["products"] == 9  # four of each layer, and the head
    assert [row["steps"] for row in figures["long"]] == [125, 7500]
    assert figures["torch"]["tokens"] == figures["stream"]["13"]["tokens"]
    assert "--nemo-encoder" in figures["nemo"]["skipped"]
    assert "Targets" in tables
    assert (folder / "curve.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.slow
def test_a_chunk_is_run_once_and_torch_runs_as_many(measured: tuple[dict[str, Any], str, Path]) -> None:
    figures, _, _ = measured
    (encoder,) = [row for row in figures["stream"]["13"]["graphs"] if row["graph"] == "encoder_chunk"]
    assert figures["torch"]["chunks"] == 5  # of 14 steps, in 63 of them
    assert encoder["runs"] <= 7  # the last segment hears a second again


@pytest.mark.slow
def test_prepending_takes_memory_and_a_longer_first_token(measured: tuple[dict[str, Any], str, Path]) -> None:
    ways = measured[0]["prepend"]
    assert [row["steps"] for row in ways["prepend"]] == [188, 375, 750, 1500]
    assert ways["prepend"][-1]["first_ms"] > ways["cross"][-1]["first_ms"]
    assert ways["cross"][1]["speech_bytes"] == 375 * 2 * 2 * 64 * 4  # keys and values of two layers
    assert ways["prepend"][1]["speech_bytes"] == 375 * 2 * 2 * 32 * 4


@pytest.mark.slow
def test_a_target_without_figures_is_not_measured(measured: tuple[dict[str, Any], str, Path]) -> None:
    rows = {row["name"]: row for row in measured[0]["targets"]}
    assert rows["LLM step, llama.cpp Q4_0 over ours"] == {
        "name": "LLM step, llama.cpp Q4_0 over ours",
        "target": 1.4,
        "measured": None,
        "met": None,
    }
    assert rows["real-time factor, look-ahead 0"]["measured"] > 0


def test_wrong_arguments_end_with_one_sentence(tmp_path: Path) -> None:
    for arguments, words in (
        (("--parts", "stream,tpu"), "unknown tpu"),
        (("--bundle", tmp_path), "holds no bundle.json"),
        (("--audio", tmp_path / "no.wav"), "no file"),
    ):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1]
