"""Cross-attention in the LLM's layers, from parts to scores: init, train, export, verify, run, replay, eval."""

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

FSDD = Path(__file__).parents[1] / "audio" / "fsdd"
STAGE = {"batch_s": 4, "learning_rate": 0.001, "warmup_steps": 1, "steps": 2}
RECIPE = {
    "init": "start",
    "precision": "fp32",
    "save_steps": 2,
    "hypotheses": {"utterances": 2},
    "data": {
        "sources": [{"name": "speech", "manifests": ["train.jsonl"], "word_times": "estimated"}],
        "dev_sources": [{"name": "dev", "manifests": ["train.jsonl"]}],
        "filter": {"max_s": 4},
    },
    "stages": [
        STAGE | {"name": "frozen", "trains": ["connector"], "attention_weight": 0.3, "streaming": 0.5, "pauses": 0.4},
        STAGE | {"name": "lora", "trains": ["connector"], "lora": {"rank": 4}},
        STAGE | {"name": "whole", "activation_checkpointing": True},
    ],
}


@pytest.fixture
def parts(tmp_path: Path) -> tuple[str | Path, ...]:
    """Options that name NeMo's encoder and a tiny Llama, with the data of `RECIPE` beside it."""
    make_llm(tmp_path / "llm", "llama")
    lines = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line | {"audio_filepath": str(FSDD / line["audio_filepath"])} for line in lines]
    write_lines(tmp_path / "train.jsonl", lines)
    write_lines(tmp_path / "test.jsonl", lines[:2])
    return "init", "--encoder", nemo_fixture("streaming.nemo"), "--llm", tmp_path / "llm", "--out", tmp_path / "start"


@pytest.mark.slow
@pytest.mark.usefixtures("no_line")
def test_from_parts_to_scores(
    capsys: pytest.CaptureFixture[str], parts: tuple[str | Path, ...], tmp_path: Path
) -> None:
    """The LLM frozen, with LoRA, whole; all policies of BESTOW."""

    def ran(*arguments: object) -> str:
        code, out, err = run_here(capsys, *arguments)
        assert code == 0, err
        return out

    run, bundle, trace = (tmp_path / name for name in ("run", "bundle", "talk.trace"))
    ran(*parts, "--connector", "cross_layers", "--every", "1", "--adapter-heads", "2", "--pairs", "en-en,en-de")
    assert load_config(tmp_path / "start").connector.kind == "gated_layers"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert json.loads(ran("train", recipe, "--data", tmp_path, "--dry-run", "--json"))["missing"] == []
    ran("train", recipe, "--data", tmp_path, "--out", run)
    states = [load_file(run / stage / "model" / "model.safetensors") for stage in ("frozen", "whole")]
    gates = [state["connector.layers.0.attention_gate"] for state in states]
    assert gates[0] != 0
    assert gates[0] != gates[1]
    start = load_file(tmp_path / "start" / "model.safetensors")
    word = "llm.model.layers.0.mlp.up_proj.weight"
    assert [np.array_equal(start[word], state[word]) for state in states] == [True, False]
    ran("export", run / "checkpoint", "--out", bundle, "--precision", "fp32")
    ran("verify", bundle)
    audio = FSDD / "3_george_4.ogg"
    ran("run", audio, "--bundle", bundle, "--lang", "en-de")
    ran("run", audio, "--bundle", bundle, "--lang", "en-de", "--stream", "--trace", trace)
    assert "same text as recorded" in ran("replay", trace, "--bundle", bundle)
    policies = "wait-k,align-att,local-agreement,offline"
    ran("eval", tmp_path / "test.jsonl", "--bundle", bundle, "--policy", policies, "--out", tmp_path / "scores")
    assert "LAAL" in (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--connector", "gated_layers", "--every", "9"), "every 9, but the LLM has 2 layers, so none would attend"),
        (("--every", "2"), "--every: only --connector gated_layers has layers to choose; give both"),
        (
            ("--connector", "gated_layers", "--adapter-heads", "7"),
            "is not a multiple of num_heads 7; choose other heads",
        ),
        (
            ("--connector", "gated_layers", "--adapter", "decoder"),
            "begins with fresh weights; leave out --from and --ad",
        ),
    ],
)
def test_options_that_do_not_fit(
    capsys: pytest.CaptureFixture[str],
    parts: tuple[str | Path, ...],
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    code, _, err = run_here(capsys, *parts, *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "start").exists()
