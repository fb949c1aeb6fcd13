"""What contradicts itself in a stage or a recipe is one error that names the fields."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.training.recipe.recipe import Recipe, load_recipe
from bestow_edge.training.recipe.stages import StageRecipe

PLAIN = {"name": "s", "steps": 4, "batch_s": 1.0, "learning_rate": 0.1}
TEXTS = {"name": "texts", "texts": ["a.tsv"], "columns": ["en"]}
ALL_TEXTS = {"sources": [TEXTS], "dev_sources": [TEXTS]}
RECIPES = Path(__file__).parents[3] / "examples" / "recipes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "ctc"}, "stage s: objective ctc has no loss; set ctc_weight: 1.0"),
        ({"objective": "ctc", "ctc_weight": 1.0, "streaming": 0.5}, "objective ctc has no use for streaming"),
        ({"objective": "text", "count_weight": 1.0, "pauses": 0.5}, "text has no use for pauses, count_weight"),
        ({"objective": "text", "trains": ["encoder"]}, "objective text does not run encoder"),
        ({"objective": "reading", "trains": ["llm"]}, "objective reading does not run llm"),
        ({"objective": "reading", "reading_weight": 0.5}, "objective reading has no use for reading_weight"),
        ({"objective": "ctc", "ctc_weight": 1.0, "reading_weight": 0.5}, "ctc has no use for reading_weight"),
        ({"objective": "reading", "best": "bleu"}, "objective reading has no bleu; best is one of loss, right"),
        ({"objective": "ctc", "ctc_weight": 1.0, "lora": {}}, "lora changes the LLM, which objective ctc does not run"),
        ({"lora": {}, "trains": ["llm", "connector"]}, "lora freezes the LLM's own weights; remove llm from trains"),
        ({"trains": ["llm"], "ctc_weight": 0.3}, "ctc_weight teach the encoder, which is frozen"),
        ({"objective": "text", "best": "wer"}, "objective text has no wer; best is one of loss, right"),
        ({"lora": {"rank": 0}}, "lora: need rank >= 1"),
        ({"lora": {"ranks": 1}}, r"s\.lora: unknown ranks; known are rank, alpha, dropout, targets"),
        ({"trains": ["head"]}, r"s\.trains\[0\]: expected one of encoder, connector, llm"),
        ({"lookaheads": []}, "lookaheads is empty"),
        ({"prefixes": 1.5}, "prefixes is 1.5"),
        ({"objective": "text", "prefixes": 0.5}, "objective text has no use for prefixes"),
        ({"batches_per_step": -1}, "must be at least 0 and average at least 1"),
        ({"average": 0}, "must be at least 0 and average at least 1"),
        ({"name": "../up"}, "choose another name"),
        ({"name": "checkpoint"}, "choose another name"),
    ],
)
def test_contradictions_in_a_stage(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(StageRecipe, PLAIN | changes, "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is missing; give model .* or init"),
        ({"pairs": ["en-en"]}, "pairs goes with init alone"),
        ({"stages": [PLAIN, PLAIN]}, "stages named alike: s"),
        ({"stages": [PLAIN | {"average": 3}]}, "average 3 needs as many saves; lower save_steps"),
        ({"stages": [PLAIN | {"best": "wer"}], "hypotheses": {"utterances": 0}}, "best: wer needs hypotheses"),
        ({"hypotheses": {"lookahead": 5}}, r"stage hypotheses: look-aheads \{5\} are not in"),
        ({"hypotheses": {"k": -1}}, "hypotheses: utterances and k must be at least 0"),
        ({"data": ALL_TEXTS, "stages": [PLAIN | {"objective": "ctc", "ctc_weight": 1}]},
         "stage s: objective ctc needs speech"),
        ({"data": ALL_TEXTS, "stages": [PLAIN | {"objective": "reading"}]}, "stage s: objective reading needs speech"),
        ({"data": ALL_TEXTS, "stages": [PLAIN | {"best": "wer"}]},
         "stage s: best: wer needs speech; data.dev_sources are all texts"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"report_to": ["paper"]}, "expected one of tensorboard"),
    ],
)  # fmt: skip
def test_contradictions_in_a_recipe(recipe_values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(Recipe, recipe_values | changes, "recipe")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 100}, "vocab_size 100; special tokens and 256 bytes need at least 261"),
        ({"encoder": {"kind": "chunked", "network": {
            "model_type": "nemotron_asr_streaming_encoder", "hidden_size": 30, "num_attention_heads": 4}}},
         "encoder: hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"encoder_layers": [0]}, "layers of the encoder that encoder_from names; set both"),
        ({"encoder_from": "start", "encoder_layers": [1, 0]}, r"encoder_layers \[1, 0\]; expected"),
        ({"encoder_from": "start", "encoder_layers": [0, 2]}, "2 encoder_layers, but encoder has num_hidden_layers 1"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit(recipe_values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    recipe_values["model"] |= changes
    with pytest.raises(ConfigError, match=message):
        decode(Recipe, recipe_values, "recipe")


def test_init_is_relative_to_the_recipe(tmp_path: Path, recipe_values: dict[str, Any]) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_values | {"init": "start", "model": None}), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml").init == str(tmp_path / "start")
    assert load_recipe(tmp_path / "r.yaml", init=Path("/else")).init == "/else"


def test_the_encoder_it_starts_from_is_relative_to_the_recipe(tmp_path: Path, recipe_values: dict[str, Any]) -> None:
    recipe_values["model"] |= {"encoder_from": "start", "encoder_layers": [1]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_values), encoding="utf-8")
    model = load_recipe(tmp_path / "r.yaml").model
    assert model is not None
    assert model.encoder_from == str(tmp_path / "start")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_recipe(path).stages
