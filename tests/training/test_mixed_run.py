"""A run on speech, questions and texts together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bestow_edge.training.trainer import train


def test_a_run_trains_on_speech_questions_and_texts(
    source_recipe: Callable[..., Any], sentences: Path, tmp_path: Path
) -> None:
    sources = [
        {"name": "asr", "manifests": ["train.jsonl"]},
        {"name": "qa", "manifests": ["qa.jsonl"], "tasks": ["answer"]},
        {"name": "text", "texts": ["texts.tsv.gz"], "pairs": ["en-de"], "columns": ["de"], "batch_tokens": 256,
         "max_tokens": 64},
    ]  # fmt: skip
    recipe = source_recipe(sources=sources, stage={"steps": 8, "streaming": 0.5})
    assert (train(recipe, sentences, tmp_path / "out") / "model.safetensors").is_file()
    lines = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(np.isfinite(value) for line in lines for value in json.loads(line).values() if isinstance(value, float))


def test_text_pretraining(source_recipe: Callable[..., Any], sentences: Path, tmp_path: Path) -> None:
    text = {"name": "text", "texts": ["plain.jsonl"], "columns": ["text"], "batch_tokens": 256, "max_tokens": 64}
    stage = {"steps": 4, "objective": "text"}
    recipe = source_recipe(sources=[text], dev_sources=[text], stage=stage)
    assert (train(recipe, sentences, tmp_path / "out") / "model.safetensors").is_file()
