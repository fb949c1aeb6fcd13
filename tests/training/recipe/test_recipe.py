"""Recipes: the packaged one loads, and each mistake is one error that names its field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bestow_edge.core.errors import ConfigError, PromptError
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.training.recipe.recipe import load_recipe, model_config

Values = dict[str, Any]


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_the_example_is_valid() -> None:
    recipe = load_recipe(Path(__file__).parents[3] / "examples" / "digits.yaml")
    joins = [source.join for source in (*recipe.data.sources, *recipe.data.dev_sources)]
    joined = [join for join in joins if join]
    assert [len(join.vocabulary) for join in joined] == [20, 20]
    assert "null" in joined[0].vocabulary  # the German zero, not YAML's nothing
    assert recipe.stages[-1].streaming > 0


def test_fields_are_read(tmp_path: Path, recipe_values: Values) -> None:
    recipe = load_recipe(write(tmp_path, recipe_values))
    assert [stage.name for stage in recipe.stages] == ["offline", "streaming"]
    assert recipe.stages[0].k_min == 3
    assert recipe.model.connector.width == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(sed=1), r"recipe\.yaml: unknown sed; known are model, data, stages"),
        (lambda v: v.pop("data"), r"recipe\.yaml: data is missing"),
        (lambda v: v["stages"][1].update(step=5), r"recipe\.yaml\.stages\[1\]: unknown step"),
        (lambda v: v["stages"][0].update(steps="6"), r"recipe\.yaml\.stages\[0\]\.steps: expected int, got str"),
        (lambda v: v["stages"][0].update(steps=0), "stage offline: steps, batch_s and learning_rate must be more"),
        (lambda v: v["stages"][0].update(pieces=[1]), "stage offline: pieces and augment are two numbers each"),
        (lambda v: v["stages"][0].update(k_min=9, k_max=4), "need 1 <= k_min <= k_max, got 9 and 4"),
        (lambda v: v["stages"][0].update(lookaheads=[13, 5]), r"look-aheads \{5\} are not in those of model\.encoder"),
        (lambda v: v.update(stages=[]), "stages is empty; give at least one"),
        (lambda v: v.update(precision="fp16"), r"precision: expected one of bf16, fp32, got str 'fp16'"),
        (
            lambda v: v["data"]["sources"][0]["join"].update(vocabulary=["one", None]),
            r"sources\[0\]\.join\.vocabulary\[1\]: expected str, got NoneType",
        ),
        (
            lambda v: v["model"]["llm"].update(num_attention_heads=0),
            r"model\.llm: num_attention_heads is 0; expected at",
        ),
        (lambda v: v["model"]["connector"].update(num_heads=5), "width 32 is not a multiple of num_heads 5"),
    ],
)
def test_mistakes(tmp_path: Path, recipe_values: Values, change: Callable[[Values], object], message: str) -> None:
    change(recipe_values)
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, recipe_values))


def test_a_bidirectional_model(tmp_path: Path, recipe_values: Values) -> None:
    network = {"model_type": "parakeet_encoder", "hidden_size": 32}
    encoder = {"kind": "windowed", "network": network, "block": 2}
    recipe_values["model"] |= {"features": {"normalize": "per_feature"}, "encoder": encoder}
    del recipe_values["stages"][1]["lookaheads"]
    recipe = load_recipe(write(tmp_path, recipe_values)).model
    config = model_config(recipe, network=network, llm={"model_type": "llama", "hidden_size": 32})
    assert config.encoder == WindowedConfig(network=network, block=2)
    with pytest.raises(
        ConfigError, match="model_type 'nemotron_asr_streaming_encoder' is not one of kind windowed: par"
    ):
        model_config(recipe, network=network | {"model_type": "nemotron_asr_streaming_encoder"}, llm=config.llm)


def test_unknown_language(tmp_path: Path, recipe_values: Values) -> None:
    recipe_values["model"]["pairs"] = ["en-xx"]
    with pytest.raises(PromptError, match="language pair 'en-xx'"):
        load_recipe(write(tmp_path, recipe_values))


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such recipe; examples/digits\.yaml is one"):
        load_recipe(tmp_path / "nowhere.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text("a: [1", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(path)
    path.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: expected a mapping, got list"):
        load_recipe(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(path)
