"""From pretrained parts by `init` and a recipe to a bundle that writes: what users do, with tiny parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import run_here
from nemo_files import nemo_fixture
from safetensors.numpy import load_file
from sentences import write_lines
from tiny_llms import make_llm

from bestow_edge.core.checkpoint import load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_line")]
FSDD = Path(__file__).parents[1] / "audio" / "fsdd"
INIT = ("--adapter-width", 48, "--adapter-heads", 4, "--adapter-layers", 1, "--pairs", "en-en,en-de")
SPEECH = {"name": "speech", "manifests": ["train.jsonl"]}
TEXTS = {"name": "texts", "texts": ["train.jsonl"], "columns": ["de"], "batch_tokens": 128, "max_tokens": 32}
STAGE = {"steps": 2, "batch_s": 4, "learning_rate": 0.001, "warmup_steps": 1}
RECIPE = {
    "precision": "fp32",
    "save_steps": 2,
    "hypotheses": {"utterances": 2},
    "data": {
        "sources": [SPEECH, TEXTS],
        "dev_sources": [SPEECH | {"manifests": ["dev.jsonl"]}],
        "filter": {"max_s": 4},
    },
    "stages": [
        STAGE | {"name": "offline", "ctc_weight": 0.2},
        STAGE | {"name": "streaming", "streaming": 0.8, "lookaheads": [13, 0], "lora": {"rank": 4}, "best": "loss"},
    ],
}


def start(capsys: pytest.CaptureFixture[str], folder: Path) -> Path:
    """Make a checkpoint of NeMo's encoder and a tiny Llama."""
    llm = make_llm(folder / "llm", "llama")
    encoder = nemo_fixture("streaming.nemo")
    code, _, err = run_here(capsys, "init", "--encoder", encoder, "--llm", llm, *INIT, "--out", folder / "start")
    assert code == 0, err
    return folder / "start"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Directory of the recordings' manifests, every fourth for the dev set."""
    lines = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line | {"audio_filepath": str(FSDD / line["audio_filepath"])} for line in lines]
    write_lines(tmp_path / "dev.jsonl", lines[::4])
    write_lines(tmp_path / "train.jsonl", [line for number, line in enumerate(lines) if number % 4])
    return tmp_path


def test_init_train_export_verify_run(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    checkpoint = start(capsys, tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"init": checkpoint.name}), encoding="utf-8")
    code, out, err = run_here(capsys, "train", recipe, "--data", data, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["missing"] == []
    code, out, err = run_here(capsys, "data", "check", recipe, "--data", data, "--json")
    assert code == 0, out + err
    code, out, err = run_here(capsys, "train", recipe, "--data", data, "--out", tmp_path / "run")
    assert code == 0, err
    trained = tmp_path / "run" / "checkpoint"
    assert load_config(trained) == load_config(checkpoint)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, trained))
    assert before.keys() == after.keys()
    moved = {name.partition(".")[0] for name, weight in before.items() if not np.array_equal(weight, after[name])}
    assert moved == {"encoder", "connector", "llm"}
    bundle = tmp_path / "bundle"
    code, _, err = run_here(capsys, "export", trained, "--out", bundle, "--precision", "fp32")
    assert code == 0, err
    code, _, err = run_here(capsys, "verify", bundle)
    assert code == 0, err
    audio = FSDD / "3_george_4.ogg"
    code, out, err = run_here(capsys, "run", audio, "--bundle", bundle, "--lang", "en-de", "--stream", "--json")
    assert code == 0, err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"pairs": ["en-en"]}, "model.pairs is"),
        ({"policy": {"k": 9, "l": 4}}, "model.policy.k is 9 in the recipe and 6"),
    ],
)
def test_a_model_that_is_not_the_checkpoints(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, model: dict[str, object], message: str
) -> None:
    checkpoint = start(capsys, tmp_path)
    config = load_config(checkpoint).to_dict()
    kept = {name: config[name] for name in ("encoder", "llm", "connector", "features", "policy", "pairs")}
    values = RECIPE | {"init": checkpoint.name, "model": json.loads(json.dumps(kept)) | model}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    code, _, err = run_here(capsys, "train", recipe, "--data", data, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
