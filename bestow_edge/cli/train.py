"""`bestow-edge train`: recipe to checkpoint. Knows the trainer's front door; what it shows is in `train_progress`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli.console import needs_extra, new_table, say, write, write_tables
from bestow_edge.errors import BestowEdgeError

if TYPE_CHECKING:
    from bestow_edge.training.recipe import Recipe

INTERRUPTED = 130


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, such as examples/digits.yaml.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the run; holds checkpoint/ at last.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="What manifests are relative to; default: the recipe's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and the first batch, train nothing.")] = False,
) -> None:
    """Train a model by a recipe; a run that was stopped goes on by the same command.

    Needs the extra `train`.

    \b
    Examples:
      bestow-edge train examples/digits.yaml --data DATA --out runs/digits --dry-run
      bestow-edge train examples/digits.yaml --data DATA --out runs/digits
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
    with needs_extra("train"):
        from bestow_edge.training.recipe import load_recipe

        loaded = load_recipe(recipe)
        data_dir = recipe.parent if data is None else data
        if dry_run:
            _show(loaded, data_dir, out)
            return
        checkpoint = _train(loaded, data_dir, out)
    write(f"checkpoint: {checkpoint}")
    say(f"next: bestow-edge export {checkpoint} --out BUNDLE")


def _train(recipe: Recipe, data_dir: Path, out: Path) -> Path:
    say("loading torch and the data")
    from bestow_edge.cli.train_progress import StageBars
    from bestow_edge.training import trainer

    if out.is_dir() and any((out / stage.name).is_dir() for stage in recipe.stages):
        say(f"{out} holds an earlier run: going on where it stopped")
    try:
        with StageBars() as bars:
            return trainer.train(recipe, data_dir, out, [bars.callback])
    except KeyboardInterrupt as error:
        say(f"stopped; the same command goes on from the last save, made every {recipe.save_steps} steps")
        raise typer.Exit(INTERRUPTED) from error
    except BestowEdgeError as error:
        raise _without_worker(error) from error


def _without_worker(error: BestowEdgeError) -> BestowEdgeError:
    """Return the error a data loader's process raised, whose text holds a whole traceback, as it was."""
    if "Original Traceback" not in str(error):
        return error
    last_line = str(error).strip().splitlines()[-1]
    return BestowEdgeError(last_line.partition(": ")[2])


def _show(recipe: Recipe, data_dir: Path, out: Path) -> None:
    from bestow_edge.training.trainer import Run

    run = Run(recipe, data_dir, out)
    sizes = new_table("Weights", "part", "number", numbers=("number",))
    for name, part in run.objective.model.named_children():
        sizes.add_row(name, f"{sum(weight.numel() for weight in part.parameters()):,}")
    sizes.add_row("all", f"{sum(weight.numel() for weight in run.objective.model.parameters()):,}")
    stages = new_table("Stages", "stage", "steps", "seconds a batch", "learning rate", numbers=("steps",))
    for stage in recipe.stages:
        stages.add_row(stage.name, str(stage.steps), f"{stage.batch_s:g}", f"{stage.learning_rate:g}")
    batch = new_table("First batch", "tensor", "shape", "dtype")
    for name, tensor in run.dataset(recipe.stages[0], dev=False)[0].items():
        batch.add_row(name, str(tuple(tensor.shape)), str(tensor.dtype).removeprefix("torch."))
    write_tables(sizes, stages, batch)
