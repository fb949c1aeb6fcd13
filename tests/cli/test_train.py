"""`bestow-edge train` on a toy recipe: dry run, a run, Ctrl-C and going on, and its errors."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RECIPE = """
precision: fp32
save_steps: 2
model:
  vocab_size: 300
  pairs: [en-en]
  encoder:
    kind: chunked
    network: {model_type: nemotron_asr_streaming_encoder, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
              intermediate_size: 32, subsampling_conv_channels: 4}
  connector: {kind: cross_adapter, num_layers: 1, width: 32, num_heads: 2, ffn_factor: 1}
  llm: {model_type: llama, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
        num_key_value_heads: 1, max_position_embeddings: 128}
data:
  sources: &words [{name: words, manifests: [words.jsonl], join: {}}]
  dev_sources: *words
stages: [{name: only, steps: STEPS, batch_s: 1, learning_rate: 0.001}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of two steps, with its data beside it."""
    for name in ("torch", "accelerate", "yaml"):
        pytest.importorskip(name)
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    lines = []
    for word in ("one", "two"):
        soundfile.write(tmp_path / f"{word}.wav", 0.1 * rng.standard_normal(8_000), 16_000)
        lines.append({"audio_filepath": f"{word}.wav", "duration": 0.5, "text": word, "lang": "en", "speaker": "a"})
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("STEPS", "2"), encoding="utf-8")
    return path


@pytest.mark.slow
def test_dry_run(cli: Callable[..., Any], recipe: Path, tmp_path: Path) -> None:
    done = cli("train", recipe, "--out", "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    for shown in ("encoder", "connector", "llm", "only", "token_ids", "int64"):
        assert shown in done.stdout
    for shown in ("activations", "trainable weights", "prompt: <s><|user|> Transcribe the English", "answer: "):
        assert shown in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_plan_as_json(cli: Callable[..., Any], recipe: Path) -> None:
    done = cli("train", recipe, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (stage,) = plan["stages"]
    assert plan["missing"] == []
    assert stage["trainable"] == plan["weights"]
    assert stage["optimizer"] == 2 * stage["gradients"] == 8 * sum(plan["weights"].values())
    assert stage["activations"] > 0
    assert stage["forward_flops"] > 0
    assert plan["first_batch"]["answer"] in {"one", "two"}


@pytest.mark.slow
def test_the_plan_of_the_paper_needs_neither_data_nor_weights(cli: Callable[..., Any]) -> None:
    paper = Path(__file__).parents[2] / "examples" / "recipes" / "paper.yaml"
    done = cli("train", paper, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert 1.7e9 < sum(plan["weights"].values()) < 1.85e9  # the paper: about 1.8 billion
    assert [stage["batches_per_step"] * stage["batch_s"] for stage in plan["stages"]] == [128 * 360.0] * 2
    assert plan["first_batch"] is None
    weights, data = plan["missing"]
    assert "not a checkpoint" in weights
    assert "no shards.json" in data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "staged"])
def test_the_plans_of_the_other_recipes(cli: Callable[..., Any], name: str) -> None:
    done = cli("train", Path(__file__).parents[2] / "examples" / "recipes" / f"{name}.yaml", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    if name == "lora":
        ends = ((1024, 2048), (1024, 1024), (1024, 1024), (2048, 1024), (1024, 3072), (1024, 3072), (3072, 1024))
        assert plan["stages"][1]["trainable"]["lora"] == 28 * 64 * sum(map(sum, ends))  # layers, rank
        assert "llm" not in plan["stages"][1]["trainable"]
    assert all(stage["activations"] > 0 for stage in plan["stages"])


@pytest.mark.slow
def test_train_stop_and_go_on(cli: Callable[..., Any], recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("STEPS", "100000"), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", "from bestow_edge.cli.main import main; main()", "train", recipe, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step 4 of" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "stopped; the same command goes on from the last save" in err
    assert "Traceback" not in err
    saved = max(
        int(path.parent.name.partition("-")[2])
        for path in (tmp_path / "run" / "only").glob("checkpoint-*/trainer_state.json")
    )
    (tmp_path / "run" / "only" / f"checkpoint-{saved + 2}").mkdir(exist_ok=True)  # as if stopped while saving
    recipe.write_text(RECIPE.replace("STEPS", str(saved + 4)), encoding="utf-8")
    done = cli("train", recipe, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "holds an earlier run: going on where it stopped" in done.stderr
    assert f"going on at step {saved}" in done.stderr
    assert done.stdout == f"checkpoint: {Path('run') / 'checkpoint'}\n"
    assert cli("inspect", "run/checkpoint").returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such recipe"), ("a: [", "not valid YAML"), ("colour: red", "unknown colour; known are model, data")],
)
def test_bad_recipes(cli: Callable[..., Any], tmp_path: Path, text: str | None, message: str) -> None:
    pytest.importorskip("yaml")
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    done = cli("train", "bad.yaml", "--out", "run")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert message in done.stderr


def test_missing_manifest_and_missing_extra(cli: Callable[..., Any], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "words.jsonl").unlink()
    done = cli("train", recipe, "--out", "run")
    assert done.returncode == 2
    assert "words.jsonl: no such manifest" in done.stderr.splitlines()[-1]
    done = cli("train", recipe, "--out", "run", before="import sys; sys.modules['torch'] = None")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: torch is not installed; run: pip install 'bestow-edge[train]'"
