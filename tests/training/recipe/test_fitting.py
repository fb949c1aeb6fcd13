"""Recipes that a connector cannot follow are refused before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.training.learning.run import Run
from bestow_edge.training.recipe.recipe import Recipe

WHOLE = [{"name": "whole", "manifests": ["train.jsonl"]}]


@pytest.fixture
def values(recipe_values: dict[str, Any]) -> dict[str, Any]:
    """A recipe that speech in the LLM's sequence can follow."""
    recipe_values["model"] |= {"connector": {"kind": "prepend"}, "segments": {"max_s": 4.0}}
    recipe_values["model"]["policy"] = {"name": "local-agreement", "l": 4}
    recipe_values["model"]["llm"]["max_position_embeddings"] = 200
    recipe_values["stages"] = recipe_values["stages"][:1]
    return recipe_values


def test_it_fits(values: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    run = Run(decode(Recipe, values, "recipe"), corpus, tmp_path, weights=False)
    assert run.tokenizer.id_to_token(run.config.connector.mark_id or 0) == "<|speech|>"
    assert run.config.connector.mark_id in run.maker(run.recipe.stages[0]).prompts["en-de"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {"streaming": 0.5}}, "streaming 0.5, but connector prepend follows no wait-k; remove it"),
        ({"stages": {"pauses": 0.5}}, "pauses 0.5, but connector prepend follows no wait-k"),
        ({"stages": {"attention_weight": 0.5}}, "attention_weight trains an adapter, which connector prepend has not"),
        ({"stages": {"objective": "reading"}}, "objective reading trains an adapter"),
        ({"hypotheses": {"k": 3}}, "hypotheses: k 3, but connector prepend follows no wait-k"),
        ({"model": {"policy": {"k": 2}}}, "policy wait-k: a model with connector prepend cannot follow it"),
        ({"model": {"segments": {}}}, "max_s 0.* leave no room in the LLM's context of 200 tokens"),
        ({"model": {"connector": {"kind": "prepend", "speech_token": 7}}}, "names token 7, but the tokenizer"),
        ({"data": {"sources": WHOLE, "filter": {"max_s": 20.0}}, "stages": {"batch_s": 20.0, "alignment_weight": 0}},
         r"20 s of speech take 251 positions and the prompt \d+, but the LLM's context has 200"),
    ],
)  # fmt: skip
def test_it_does_not_fit(
    values: dict[str, Any], corpus: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for part, fields in change.items():
        if part == "stages":
            values["stages"][0] |= fields
        else:
            values[part] = values.get(part, {}) | fields
    with pytest.raises(ConfigError, match=message):
        Run(decode(Recipe, values, "recipe"), corpus, tmp_path, weights=False)


def test_an_utterance_longer_than_the_context(values: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    values["stages"][0] |= {"pieces": [40, 40], "batch_s": 60.0}
    run = Run(decode(Recipe, values, "recipe"), corpus, tmp_path, weights=False)
    with pytest.raises(ConfigError, match=r"an utterance of \d+\.\d s takes \d+ positions .* context has 200"):
        run.dataset(run.recipe.stages[0], dev=False)[0]
