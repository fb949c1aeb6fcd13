"""`bestow-edge train`: trains a model by a recipe. The work is in `bestow_edge.training`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import needs_extra, say, write, write_json
from bestow_edge.core.errors import BestowEdgeError, TrainingStoppedError

if TYPE_CHECKING:
    from bestow_edge.training.recipe.recipe import Recipe

SIGNALLED = 128  # exit code of signal 0; add its number: 130 for Ctrl-C, 143 for SIGTERM


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, such as examples/digits.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Directory of the run and of its result, checkpoint/; default: runs/RECIPE."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Directory of the data files; default: the recipe's directory."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="CKPT", help="Checkpoint to start from; default: the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show sizes, memory and the first batch; do not train.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a model by a recipe.

    A stopped run goes on with the same command.
    For several processes start the command with accelerate's launcher or torchrun.
    Needs the extra `train`.

    Examples:
      bestow-edge train examples/digits.yaml --data DATA --dry-run
      bestow-edge train examples/digits.yaml --data DATA --out runs/digits
      accelerate launch --multi_gpu --num_processes 8 -m bestow_edge.cli.main train recipe.yaml
    """
    with needs_extra("train"):
        from bestow_edge.training.recipe.recipe import load_recipe

        loaded = load_recipe(recipe, init=init)
        data_dir = recipe.parent if data is None else data
        out_dir = Path("runs") / recipe.stem if out is None else out
        if dry_run:
            from bestow_edge.cli.show.training_plan import show_plan

            show_plan(loaded, data_dir, out_dir, as_json=as_json)
            return
        checkpoint = _train(loaded, data_dir, out_dir)
    if not is_first_process():
        return
    if as_json:
        write_json({"checkpoint": str(checkpoint)})
    else:
        write(f"checkpoint: {checkpoint}")
    say(f"next: bestow-edge export {checkpoint} --out BUNDLE")


def is_first_process() -> bool:
    """Return whether this is the first process of a launcher, the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def _train(recipe: Recipe, data_dir: Path, out: Path) -> Path:
    first = is_first_process()
    if first:
        say("loading torch and the data")
    from bestow_edge.cli.show.training_progress import stage_bars
    from bestow_edge.training.learning import trainer

    if first and out.is_dir() and any((out / stage.name).is_dir() for stage in recipe.stages):
        say(f"{out} holds an earlier run: going on where it stopped")
    try:
        with stage_bars() as callback:
            return trainer.train(recipe, data_dir, out, [callback] if first else [])
    except KeyboardInterrupt as error:
        say(f"stopped; the same command goes on from the last save (every {recipe.save_steps} steps)")
        raise typer.Exit(SIGNALLED + 2) from error
    except TrainingStoppedError as error:
        if first:
            say(str(error))
        raise typer.Exit(SIGNALLED + (error.signum or 15)) from error
    except BestowEdgeError as error:
        raise _without_worker(error) from error


def _without_worker(error: BestowEdgeError) -> BestowEdgeError:
    """Return an error of a data loader's process without the traceback in its text."""
    if "Original Traceback" not in str(error):
        return error
    last_line = str(error).strip().splitlines()[-1]
    return BestowEdgeError(last_line.partition(": ")[2])
