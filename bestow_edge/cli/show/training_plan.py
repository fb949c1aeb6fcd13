"""Output of `bestow-edge train --dry-run`: sizes, memory and the first batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bestow_edge.cli.show.console import new_table, say, say_warning, weights_table, write, write_json, write_tables
from bestow_edge.core.errors import CheckpointError, ConfigError, ManifestError

if TYPE_CHECKING:
    from bestow_edge.core.config import ModelConfig
    from bestow_edge.training.learning.run import Run
    from bestow_edge.training.recipe.recipe import Recipe

SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # any ids: sizes do not depend on them


def show_plan(recipe: Recipe, data_dir: Path, out: Path, *, as_json: bool) -> None:
    """Show the stages and the memory of a run. No weights are loaded.

    Data and checkpoint may be missing if the recipe has a model.

    Raises:
        ConfigError: the recipe or the model has an error.
        CheckpointError: the checkpoint to start from is missing and the recipe has no model.
    """
    say("loading torch and the data")
    plan = make_plan(recipe, data_dir, out)
    if as_json:
        write_json(plan)
        return
    for missing in plan["missing"]:
        say_warning(missing)
    write_tables(weights_table(plan["weights"]), _stages(plan), _memory(plan))
    if plan["first_batch"]:
        write_tables(_batch(plan))
        write(f"prompt: {plan['first_batch']['prompt']}")
        write(f"answer: {plan['first_batch']['answer']}")


def make_plan(recipe: Recipe, data_dir: Path, out: Path) -> dict[str, Any]:  # Any: plain values for JSON
    """Return the plan as plain values, see `show_plan`."""
    from bestow_edge.training.learning.memory_estimate import estimate_stage, shapes_of, sizes, typical_shapes
    from bestow_edge.training.learning.run import batches_per_step

    run, config, missing = _prepare(recipe, data_dir, out)
    plan: dict[str, Any] = {"weights": sizes(config), "stages": [], "first_batch": None, "missing": missing}
    vocab_size = run.labels.get_vocab_size() if run else recipe.labels or config.llm["vocab_size"]
    for stage in recipe.stages:
        batch = run.dataset(stage, dev=False)[0] if run else None
        shapes = typical_shapes(config, stage) if batch is None else shapes_of(batch)
        estimate = estimate_stage(config, recipe, stage, vocab_size, shapes)
        batches = stage.batches_per_step or batches_per_step(stage, 1)
        facts = {"name": stage.name, "objective": stage.objective, "steps": stage.steps, "batch_s": stage.batch_s}
        facts |= {"batches_per_step": batches, "learning_rate": stage.learning_rate}
        plan["stages"].append(facts | estimate.to_dict())
        if run and batch is not None and plan["first_batch"] is None:
            plan["first_batch"] = _first_batch(run, batch)
    return plan


def _prepare(recipe: Recipe, data_dir: Path, out: Path) -> tuple[Run | None, ModelConfig, list[str]]:
    """Return the run, or None if its data is missing; the config; and messages about missing files."""
    from bestow_edge.training.learning.run import Run, fresh_config, given

    missing = []
    if recipe.init and recipe.model is not None:
        try:
            given(recipe)
        except CheckpointError as error:
            missing.append(f"{error}; sizes are those of the recipe's model")
            recipe = replace(recipe, init="")
    try:
        run = Run(recipe, data_dir, out, weights=False)
    except ManifestError as error:
        missing.append(f"{error}; the estimate assumes utterances of 12 s")
    else:
        return run, run.config, missing
    config, _ = given(recipe)
    if config is None and recipe.model is not None:
        config = fresh_config(recipe.model, recipe.model.vocab_size, SPECIAL_IDS)
    if config is None:
        raise ConfigError("recipe: give model or init")
    return None, config, missing


def _first_batch(run: Run, batch: dict[str, Any]) -> dict[str, Any]:  # Any: tensors in, plain values out
    from bestow_edge.training.data.examples import IGNORED

    answered = (batch["targets"][0] != IGNORED).nonzero().flatten().tolist()
    tokens = batch["token_ids"][0].tolist()
    first, last = (answered[0], answered[-1]) if answered else (len(tokens) - 1, len(tokens) - 1)
    parts = tokens[: first + 1], tokens[first + 1 : last + 1]
    prompt, text = ([token for token in part if token >= 0] for part in parts)  # without places of speech
    shapes = {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in batch.items()}
    decode = run.tokenizer.decode
    return {
        "tensors": shapes,
        "prompt": decode(prompt, skip_special_tokens=False),
        "answer": decode(text, skip_special_tokens=False).strip(),
    }


def _stages(plan: dict[str, Any]) -> Table:
    numbers = ("steps", "batches a step", "seconds a batch", "trainable weights")
    table = new_table("Stages", "stage", "objective", *numbers, "by part", "learning rate", numbers=numbers)
    for stage in plan["stages"]:
        parts = ", ".join(f"{name} {number:,}" for name, number in stage["trainable"].items())
        row = (stage["steps"], stage["batches_per_step"], stage["batch_s"], sum(stage["trainable"].values()))
        cells = [f"{number:,g}" if isinstance(number, float) else f"{number:,}" for number in row]
        table.add_row(stage["name"], stage["objective"], *cells, parts, f"{stage['learning_rate']:g}")
    return table


def _memory(plan: dict[str, Any]) -> Table:
    columns = ("weights", "gradients", "optimizer", "activations", "total")
    title = "Memory of one process, GB; FSDP divides the first three by the number of processes"
    table = new_table(title, "stage", *columns, "TFLOP a batch", numbers=(*columns, "TFLOP a batch"))
    for stage in plan["stages"]:
        cells = [f"{stage[name] / 1e9:.2f}" for name in columns]
        table.add_row(stage["name"], *cells, f"{3 * stage['forward_flops'] / 1e12:.2f}")
    return table


def _batch(plan: dict[str, Any]) -> Table:
    table = new_table("First batch", "tensor", "shape", "dtype")
    for name, (shape, dtype) in plan["first_batch"]["tensors"].items():
        table.add_row(name, str(tuple(shape)), dtype)
    return table
