"""Two processes with gloo: the losses and the weights of one process, under DDP and under FSDP."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import FSDP, QUIET, finish, records, start, torchrun, write_recipe
from safetensors.torch import load_file

from bestow_edge.core.errors import ConfigError
from bestow_edge.training.learning.run import batches_per_step
from bestow_edge.training.recipe.stages import StageRecipe


@pytest.fixture(scope="module")
def recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory, recipe_module: dict[str, Any]) -> Path:
    """One stage with every loss and one with LoRA, without dropout; four and two batches a step."""
    first, second = recipe_module["stages"]
    recipe_module["model"]["encoder"]["network"] |= QUIET
    recipe_module["model"]["encoder"]["network"]["num_hidden_layers"] = 2
    first |= {"steps": 4, "batches_per_step": 4, "ctc_weight": 0.3, "count_weight": 0.2, "attention_weight": 0.2}
    first |= {"best": "loss", "average": 2}
    first["learning_rate"] = 0.001  # Adam's first steps behind silent branches make much of rounding
    second |= {"steps": 2, "batches_per_step": 2, "lora": {"rank": 2}, "trains": ["connector"], "ctc_weight": 0.0}
    recipe_module |= {"log_steps": 1, "save_steps": 2, "hypotheses": {"utterances": 3}}
    return write_recipe(corpus, tmp_path_factory.mktemp("recipe") / "recipe.yaml", recipe_module)


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    code, err = finish(start(recipe, out))
    assert code == 0, err
    return out


def assert_same(got: Path, want: Path, tolerance: float) -> None:
    ours, theirs = records(got), records(want)
    assert [record.keys() for record in ours] == [record.keys() for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in {"loss", "grad_norm", "eval_loss", "eval_right", "eval_wer", "right"} & one.keys():
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), (one["step"], name)
    for name in ("checkpoint", "offline/best", "offline/model"):
        weights, others = (load_file(folder / name / "model.safetensors") for folder in (got, want))
        assert weights.keys() == others.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(weight, others[key], atol=50 * tolerance, rtol=50 * tolerance, msg=key)


@pytest.mark.slow
def test_ddp_equals_one_process(recipe: Path, alone: Path, tmp_path: Path) -> None:
    code, err = finish(start(recipe, tmp_path / "out", torchrun()))
    assert code == 0, err
    assert_same(tmp_path / "out", alone, 2e-5)


@pytest.mark.slow
def test_fsdp_equals_one_process(recipe: Path, alone: Path, tmp_path: Path) -> None:
    code, err = finish(start(recipe, tmp_path / "out", torchrun(), **FSDP))
    assert code == 0, err
    assert list((tmp_path / "out" / "offline").glob("checkpoint-*/pytorch_model_fsdp_0"))
    assert_same(tmp_path / "out", alone, 2e-4)


@pytest.mark.slow
def test_fsdp_goes_on_after_a_kill(recipe: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(recipe, out, torchrun(), **FSDP)
    end = time.monotonic() + 100
    while not (out / "offline" / "checkpoint-2").is_dir() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # the launcher ends its processes, which save first
    assert finish(process)[0] != 0
    assert not (out / "checkpoint").exists()
    code, err = finish(start(recipe, out, torchrun(), **FSDP))
    assert code == 0, err
    assert_same(out, alone, 2e-4)


def test_batches_that_cannot_be_shared() -> None:
    stage = StageRecipe(name="s", steps=1, batch_s=1, learning_rate=1, batches_per_step=3)
    with pytest.raises(ConfigError, match="stage s: 2 processes cannot share batches_per_step 3 evenly"):
        batches_per_step(stage, 2)
    assert batches_per_step(stage, 3) == 3
