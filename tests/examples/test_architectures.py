"""Every recipe of examples/architectures loads, and trains a few steps with a small encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from bestow_edge.core.errors import ConfigError
from bestow_edge.training.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "examples" / "architectures").glob("*.yaml") if path.stem != "common")
KINDS = {"cross_adapter", "gated_layers", "prepend", "interleave"}
SMALL = {
    "d_model": 64,
    "hidden_size": 64,
    "encoder_layers": 1,
    "num_hidden_layers": 1,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "num_attention_heads": 4,
}


def small(path: Path) -> Any:
    """Return a recipe with a small encoder of random weights, two steps a stage and batches of 8 s."""
    recipe = load_recipe(path)
    assert recipe.model is not None
    encoder = replace(recipe.model.encoder, network=recipe.model.encoder.network | SMALL)
    model = replace(recipe.model, encoder=encoder, encoder_from="")
    stages = tuple(replace(stage, steps=2, batch_s=8.0) for stage in recipe.stages)
    return replace(recipe, model=model, stages=stages, save_steps=2)


def test_there_is_a_recipe_of_every_kind() -> None:
    recipes = [load_recipe(path) for path in RECIPES]
    assert {recipe.model.connector.kind for recipe in recipes if recipe.model} == KINDS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_share_data_encoder_and_llm(path: Path) -> None:
    recipe, common = load_recipe(path), load_recipe(ROOT / "examples" / "architectures" / "bestow.yaml")
    assert recipe.model is not None
    assert common.model is not None
    assert recipe.data == common.data
    assert recipe.model.llm == common.model.llm
    assert recipe.model.encoder.network == common.model.encoder.network
    assert [(stage.steps, stage.batch_s) for stage in recipe.stages if stage.name == "learn"] == [(600, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(path: Path, sentences: Path, tmp_path: Path) -> None:
    from bestow_edge.model.checkpoint import load_checkpoint
    from bestow_edge.training.learning.trainer import train

    checkpoint = train(small(path), sentences, tmp_path / "run")
    assert load_checkpoint(checkpoint).config.connector.kind in KINDS


def test_extending_what_is_not_there_and_itself(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("extends: other.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own.yaml: extends .*other.yaml, and there is no such file"):
        load_recipe(recipe)
    recipe.write_text("extends: own.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="extends goes on for more than 8 files; does one extend itself"):
        load_recipe(recipe)


def test_losses_on_a_frozen_encoder_need_a_compressor(sentences: Path, tmp_path: Path) -> None:
    from bestow_edge.training.learning.run import Run

    recipe = small(ROOT / "examples" / "architectures" / "salm.yaml")
    recipe = replace(recipe, stages=(replace(recipe.stages[0], alignment_weight=1.0),))
    with pytest.raises(
        ConfigError, match="stage learn: alignment_weight teach the encoder, which is frozen; see trains"
    ):
        Run(recipe, sentences, tmp_path / "run")
