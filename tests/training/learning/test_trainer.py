"""A whole run on a synthetic corpus: two stages, and an interrupted run that ends with the same weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.training.learning.trainer import Run, train
from bestow_edge.training.recipe.recipe import Recipe


class PowerCut(Exception):  # noqa: N818 - an event, not an error
    """The run is stopped from outside."""


class CutAfter(TrainerCallback):
    """Stops a run after some steps of all stages together."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count."""
        self.left -= 1
        if not self.left:
            raise PowerCut


@pytest.fixture(scope="module")
def whole_run(tiny_recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output directory of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(tiny_recipe, corpus, out)
    return out


def test_a_run_leaves_a_checkpoint_and_a_log(whole_run: Path, tiny_run: Run) -> None:
    model = load_checkpoint(whole_run / "checkpoint")
    assert model.config == tiny_run.config
    assert (whole_run / "offline" / "model").is_dir()
    assert not torch.equal(model.connector.text_out.weight, tiny_run.objective.model.connector.text_out.weight)
    records = [json.loads(line) for line in (whole_run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(record["stage"], record["step"]) for record in records} >= {("offline", 6), ("streaming", 4)}
    losses = [record["eval_loss"] for record in records if "eval_loss" in record and record["stage"] == "offline"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("steps", [3, 9])
def test_an_interrupted_run_ends_with_the_same_weights(
    whole_run: Path, tiny_recipe: Recipe, corpus: Path, tmp_path: Path, steps: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(PowerCut):
        train(tiny_recipe, corpus, out, [CutAfter(steps)])
    assert not (out / "checkpoint").exists()
    assert (out / "offline" / "model").is_dir() == (steps > 6)
    seen = CutAfter(-1)
    train(tiny_recipe, corpus, out, [seen])
    assert -1 - seen.left == (8 if steps == 3 else 2)  # it goes on from the checkpoint of the second step before
    got, want = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (out, whole_run))
    assert got.keys() == want.keys()
    for name, weight in want.items():
        torch.testing.assert_close(got[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_a_complete_run_is_not_run_again(whole_run: Path, tiny_recipe: Recipe, corpus: Path) -> None:
    assert train(tiny_recipe, corpus, whole_run, [CutAfter(1)]) == whole_run / "checkpoint"


def test_compiling_without_a_compiler(
    tiny_recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = tiny_recipe.stages
    recipe = replace(tiny_recipe, stages=(replace(first, compile=True), *others))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="offline: compile needs a C\\+\\+ compiler here, and no-such-compiler is not"
    ):
        train(recipe, corpus, tmp_path / "out")


def test_missing_data(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"train\.jsonl: no such manifest"):
        train(tiny_recipe, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
