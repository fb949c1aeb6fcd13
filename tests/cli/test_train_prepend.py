"""Speech in the LLM's own sequence, from pretrained parts to scores: init, train, export, verify, run, replay, eval."""

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
from tiny_llms import edit_json, make_llm

from bestow_edge.core.checkpoint import load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_line")]
FSDD = Path(__file__).parents[1] / "audio" / "fsdd"
STAGE = {"batch_s": 4, "learning_rate": 0.001, "warmup_steps": 1}
RECIPE = {
    "init": "start",
    "precision": "fp32",
    "save_steps": 2,
    "hypotheses": {"utterances": 2},
    "data": {
        "sources": [
            {"name": "speech", "manifests": ["train.jsonl"], "word_times": "estimated"},
            {"name": "texts", "texts": ["train.jsonl"], "columns": ["de"], "batch_tokens": 128, "max_tokens": 32},
        ],
        "dev_sources": [{"name": "dev", "manifests": ["train.jsonl"]}],
        "filter": {"max_s": 4},
    },
    "stages": [
        STAGE | {"name": "all", "steps": 4, "ctc_weight": 0.2, "prefixes": 0.5},
        STAGE | {"name": "lora", "steps": 2, "trains": ["connector"], "lora": {"rank": 4}, "lookaheads": [13, 0]},
    ],
}


FROM_SCRATCH = {
    "precision": "fp32",
    "save_steps": 2,
    "labels": 300,
    "hypotheses": {"utterances": 2},
    "model": {
        "vocab_size": 300,
        "pairs": ["en-en"],
        "encoder": {
            "kind": "chunked",
            "network": {
                "model_type": "nemotron_asr_streaming_encoder",
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "subsampling_conv_channels": 4,
            },
        },
        "connector": {"kind": "prepend", "hidden": 32, "compressor": {"labels": 300}, "mask": "non_causal"},
        "llm": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
        },
        "policy": {"name": "local-agreement", "l": 4},
        "segments": {"max_s": 5.0},
    },
    "data": {
        "sources": [{"name": "speech", "manifests": ["train.jsonl"]}],
        "dev_sources": [{"name": "dev", "manifests": ["train.jsonl"]}],
        "filter": {"max_s": 4},
    },
    "stages": [
        STAGE | {"name": "ctc", "steps": 2, "objective": "ctc", "ctc_weight": 1.0},
        STAGE | {"name": "all", "steps": 2, "trains": ["connector", "llm"]},
    ],
}


@pytest.fixture
def parts(tmp_path: Path) -> tuple[str | Path, ...]:
    """Options that name NeMo's encoder and a tiny Llama, with the data of `RECIPE` beside it."""
    make_llm(tmp_path / "llm", "llama")
    edit_json(tmp_path / "llm" / "config.json", max_position_embeddings=512)
    lines = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line | {"audio_filepath": str(FSDD / line["audio_filepath"])} for line in lines]
    write_lines(tmp_path / "train.jsonl", lines)
    write_lines(tmp_path / "test.jsonl", lines[:2])
    return "init", "--encoder", nemo_fixture("streaming.nemo"), "--llm", tmp_path / "llm", "--connector", "prepend"


def test_from_parts_to_scores(
    capsys: pytest.CaptureFixture[str], parts: tuple[str | Path, ...], tmp_path: Path
) -> None:
    def ran(*arguments: object) -> str:
        code, out, err = run_here(capsys, *arguments)
        assert code == 0, err
        return out

    start, run, bundle, trace = (tmp_path / name for name in ("start", "run", "bundle", "talk.trace"))
    ran(*parts, "--pairs", "en-en,en-de", "--out", start)
    config = load_config(start)
    assert (config.policy.name, config.policy.l, config.segments.max_s) == ("local-agreement", 12, 12.4)
    assert (config.connector.mark_id, config.llm["vocab_size"]) == (320, 321)  # the LLM had no room for it
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert json.loads(ran("train", recipe, "--data", tmp_path, "--dry-run", "--json"))["missing"] == []
    ran("train", recipe, "--data", tmp_path, "--out", run)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"eval_loss", "eval_wer"} <= set().union(*records)
    ran("export", run / "checkpoint", "--out", bundle, "--precision", "fp32")
    ran("verify", bundle)
    audio = FSDD / "3_george_4.ogg"
    ran("run", audio, "--bundle", bundle, "--lang", "en-de")
    ran("run", audio, "--bundle", bundle, "--lang", "en-de", "--stream", "--trace", trace)
    assert "same text as recorded" in ran("replay", trace, "--bundle", bundle)
    ran("eval", tmp_path / "test.jsonl", "--bundle", bundle, "--lang", "en-en", "--out", tmp_path / "scores")
    assert "LAAL" in (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")


def test_a_compressor_and_a_decoder_from_scratch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Speech-LLaMA: CTC first, its head in the checkpoint; then a decoder with random weights, speech sees speech."""
    lines = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    write_lines(
        tmp_path / "train.jsonl", [line | {"audio_filepath": str(FSDD / line["audio_filepath"])} for line in lines]
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(FROM_SCRATCH), encoding="utf-8")
    for arguments in (
        ("train", recipe, "--data", tmp_path, "--dry-run"),
        ("train", recipe, "--data", tmp_path, "--out", tmp_path / "run"),
        ("export", tmp_path / "run" / "checkpoint", "--out", tmp_path / "bundle", "--precision", "fp32"),
        ("verify", tmp_path / "bundle"),
        ("run", FSDD / "3_george_4.ogg", "--bundle", tmp_path / "bundle", "--lang", "en-en", "--stream"),
    ):
        code, _, err = run_here(capsys, *arguments)
        assert code == 0, err
    states = [load_file(tmp_path / "run" / stage / "model" / "model.safetensors") for stage in ("ctc", "all")]
    heads = [state["connector.ctc_head.weight"] for state in states]
    assert heads[0].shape == (301, 32)
    assert np.array_equal(*heads)  # the second stage has no loss on it
    assert not np.array_equal(*(state["llm.lm_head.weight"] for state in states))


def test_an_llm_without_room_for_speech(
    capsys: pytest.CaptureFixture[str], parts: tuple[str | Path, ...], tmp_path: Path
) -> None:
    edit_json(tmp_path / "llm" / "config.json", max_position_embeddings=256)
    code, _, err = run_here(capsys, *parts, "--out", tmp_path / "start")
    assert code == 2
    assert "its context of 256 tokens and the prompt of 61 leave room for 2.6 s of speech" in err
    assert not (tmp_path / "start").exists()
