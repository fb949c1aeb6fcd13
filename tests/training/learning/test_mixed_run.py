"""A run on speech, questions and texts together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from programs import FSDP, QUIET, finish, records, start, torchrun

from bestow_edge.core.checkpoint import load_config
from bestow_edge.training.learning.trainer import train

TEXT_SIZES = {"batch_tokens": 256, "max_tokens": 64}


def test_a_run_trains_on_speech_questions_and_texts(
    source_recipe: Callable[..., Any], sentences: Path, tmp_path: Path
) -> None:
    sources: list[dict[str, Any]] = [
        {"name": "asr", "manifests": ["train.jsonl"]},
        {"name": "qa", "manifests": ["qa.jsonl"], "tasks": ["answer"]},
        {"name": "text", "texts": ["texts.tsv.gz"], "pairs": ["en-de"], "columns": ["de"]} | TEXT_SIZES,
    ]
    recipe = source_recipe(sources=sources, stage={"steps": 8, "streaming": 0.5})
    checkpoint = train(recipe, sentences, tmp_path / "out")
    assert (checkpoint / "model.safetensors").is_file()
    assert load_config(checkpoint).questions == ("en",)
    further = replace(source_recipe(stage={"steps": 2}), model=None, init=str(checkpoint))
    assert load_config(train(further, sentences, tmp_path / "further")).questions == ("en",)
    lines = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(np.isfinite(value) for line in lines for value in json.loads(line).values() if isinstance(value, float))


def test_text_pretraining(source_recipe: Callable[..., Any], sentences: Path, tmp_path: Path) -> None:
    text = {"name": "text", "texts": ["plain.jsonl"], "columns": ["text"]} | TEXT_SIZES
    stage = {"steps": 4, "objective": "text"}
    recipe = source_recipe(sources=[text], dev_sources=[text], stage=stage)
    assert (train(recipe, sentences, tmp_path / "out") / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, FSDP], ids=["ddp", "fsdp"])
def test_two_processes_of_which_one_has_speech_and_the_other_texts(
    recipe_values: dict[str, Any], sentences: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    speech = {"name": "asr", "manifests": [str(sentences / "train.jsonl")]}
    texts = {"name": "text", "texts": [str(sentences / "plain.jsonl")], "columns": ["text"]} | TEXT_SIZES
    recipe_values["data"] = {"sources": [speech, texts], "dev_sources": [speech, texts], "filter": {"max_s": 3.0}}
    recipe_values["model"]["encoder"]["network"] |= QUIET
    recipe_values["model"]["vocab_size"] = 300
    stage = {"name": "only", "steps": 4, "batch_s": 4.0, "learning_rate": 0.003, "warmup_steps": 1}
    recipe_values["stages"] = [stage | {"batches_per_step": 2, "ctc_weight": 0.2, "streaming": 0.5}]
    recipe = tmp_path / "recipe.yaml"
    recipe_values |= {"seed": 2, "log_steps": 1, "save_steps": 4}  # three of the four steps have both with this seed
    recipe.write_text(yaml.safe_dump(recipe_values), encoding="utf-8")
    for name, launcher, more in (("one", [], {}), ("two", torchrun(), env)):
        code, err = finish(start(recipe, tmp_path / name, launcher, **more))
        assert code == 0, err
    one, two = (records(tmp_path / name) for name in ("one", "two"))
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for name in ("loss", "eval_loss"):
        losses, others = ([record[name] for record in log if name in record] for log in (one, two))
        assert losses == pytest.approx(others, rel=2e-4)
