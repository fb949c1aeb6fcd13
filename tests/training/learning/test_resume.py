"""Runs that are killed, stopped or out of space: the last save is complete, and losses go on as if nothing had been."""

import errno
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import finish, records, start, write_recipe
from safetensors.torch import load_file

from bestow_edge.core.errors import ConfigError, TrainingError
from bestow_edge.model.checkpoint import load_checkpoint
from bestow_edge.training.learning import stage_trainer
from bestow_edge.training.learning.log import drop_records
from bestow_edge.training.learning.trainer import train
from bestow_edge.training.recipe.recipe import Recipe

LOG_STEPS, SAVE_STEPS = 3, 4  # a record spans a save


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path, recipe_values: dict[str, Any]) -> Path:
    """Two stages with dropout, LoRA, a mean over saves, the best weights."""
    first, second = recipe_values["stages"]
    first |= {"steps": 12, "batches_per_step": 2, "average": 2, "best": "loss", "ctc_weight": 0.3}
    second |= {"steps": 12, "lora": {"rank": 2, "dropout": 0.1}}
    recipe_values |= {"log_steps": LOG_STEPS, "save_steps": SAVE_STEPS, "eval_steps": 2}
    return write_recipe(corpus, tmp_path / "recipe.yaml", recipe_values)


def wait_for(path: Path, stage: str, step: int, timeout_s: float = 100) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.is_file() and any(
            (line["stage"], line["step"]) >= (stage, step)
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()[:-1])
        ):
            return
        time.sleep(0.01)
    raise TimeoutError(path)


@pytest.mark.slow
def test_a_killed_run_has_the_losses_of_an_unbroken_one(recipe: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(start(recipe, whole))[0] == 0
    for stage, step in (("offline", 3), ("offline", 6), ("streaming", 6)):
        process = start(recipe, cut)
        wait_for(cut / "log.jsonl", stage, step)
        process.kill()
        finish(process)
        assert not (cut / "checkpoint").exists()
    with (cut / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "streaming", "st')  # a line cut by the kill
    code, err = finish(start(recipe, cut))
    assert code == 0, err
    assert "going on at step" in err
    assert records(cut) == records(whole)
    samples = [(folder / "samples.jsonl").read_text(encoding="utf-8") for folder in (cut, whole)]
    assert samples[0] == samples[1]
    for name in ("checkpoint", "offline/best", "offline/model"):
        got, want = (load_file(folder / name / "model.safetensors") for folder in (cut, whole))
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key], want[key]) for key in want)
    load_checkpoint(whole / "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_goes_on(recipe: Path, tmp_path: Path, signum: signal.Signals) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(recipe, cut)
    wait_for(cut / "log.jsonl", "offline", 2)
    process.send_signal(signum)
    code, err = finish(process)
    assert code == 128 + signum, err
    assert "stopped; the same command goes on from the last save, step" in err
    assert "Traceback" not in err
    (saved,) = (cut / "offline").glob("checkpoint-*")
    assert f"step {saved.name.partition('-')[2]} of stage offline" in err
    assert finish(start(recipe, cut))[0] == finish(start(recipe, whole))[0] == 0
    assert records(cut) == records(whole)


@pytest.mark.slow
def test_a_killed_data_loader_is_a_clear_error(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path / "run")
    wait_for(tmp_path / "run" / "log.jsonl", "offline", 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.is_file():
        process.kill()
        pytest.skip("this system does not list child processes")
    for child in children.read_text(encoding="utf-8").split():
        os.kill(int(child), signal.SIGKILL)
    code, err = finish(process)
    assert code == 2, err
    assert "error: stage offline: a process that makes batches has died" in err
    assert "Traceback" not in err
    assert finish(start(recipe, tmp_path / "run"))[0] == 0


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_keeps_the_last_save(
    tiny_recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = torch.save
    saves = []

    def save(value: object, path: object, *more: Any, **options: Any) -> None:
        saves.append(path)
        if len(saves) > 4:  # optimizer, scheduler and random state of the first save
            raise error
        real(value, path, *more, **options)

    monkeypatch.setattr(torch, "save", save)
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"no space left to save step 4 .*free some; the same command goes on"):
        train(tiny_recipe, corpus, out)
    monkeypatch.undo()
    assert [path.name for path in (out / "offline").iterdir() if path.is_dir()] == ["checkpoint-2"]
    train(tiny_recipe, corpus, out)
    load_checkpoint(out / "checkpoint")


def test_too_little_memory(tiny_recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(stage_trainer, "count_items", fail)
    with pytest.raises(TrainingError, match="stage offline: out of memory; lower batch_s and raise batches_per_step"):
        train(tiny_recipe, corpus, tmp_path / "out")


def test_another_number_of_batches_a_step(tiny_recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "offline").mkdir(parents=True)
    (out / "offline" / "settings.json").write_text('{"batches_per_step": 4}', encoding="utf-8")
    with pytest.raises(ConfigError, match="began with 4 batches a step, now there would be 1; set batches_per_step: 4"):
        train(tiny_recipe, corpus, out)
    stages = tuple(replace(stage, batches_per_step=4) for stage in tiny_recipe.stages)
    train(replace(tiny_recipe, stages=stages), corpus, out)


def test_records_behind_a_save_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = ['{"stage": "a", "step": 9}', '{"stage": "b", "step": 1}', '{"stage": "b", "step": 2}', '{"stage": "b", "s']
    path.write_text("\n".join(lines), encoding="utf-8")
    drop_records(path, "b", after=1)
    assert path.read_text(encoding="utf-8") == "\n".join(lines[:2]) + "\n"
