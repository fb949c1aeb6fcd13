"""`bestow-edge train`: recipe to checkpoint. Knows the trainer's front door; what it shows is in `train_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.cli.show.console import needs_extra, say, write, write_json
from bestow_edge.core.errors import BestowEdgeError, TrainingStoppedError

if TYPE_CHECKING:
    from bestow_edge.training.recipe.recipe import Recipe

INTERRUPTED = 128  # and the signal's number: 130 for Ctrl-C, 143 for SIGTERM


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, such as examples/digits.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Directory of the run; holds checkpoint/ at last. Default: runs/NAME."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="What manifests are relative to; default: the recipe's."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="CKPT", help="Checkpoint to start from, in place of the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show sizes, memory and the first batch, train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
) -> None:
    """Train a model by a recipe; a run that was stopped goes on by the same command.

    Needs the extra `train`. Several processes: start it with accelerate's launcher or torchrun.

    \b
    Examples:
      bestow-edge train examples/digits.yaml --data DATA --dry-run
      bestow-edge train examples/digits.yaml --data DATA --out runs/digits
      accelerate launch --multi_gpu --num_processes 8 -m bestow_edge.cli.main train recipe.yaml
    """  # noqa: D301 - \b is typer's mark for lines to leave alone
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
    """Say whether this process is the one that speaks, of those a launcher has started."""
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
        say(f"stopped; the same command goes on from the last save, made every {recipe.save_steps} steps")
        raise typer.Exit(INTERRUPTED + 2) from error
    except TrainingStoppedError as error:
        if first:
            say(str(error))
        raise typer.Exit(INTERRUPTED + (error.signum or 15)) from error
    except BestowEdgeError as error:
        raise _without_worker(error) from error


def _without_worker(error: BestowEdgeError) -> BestowEdgeError:
    """Return the error a data loader's process raised, whose text holds a whole traceback, as it was."""
    if "Original Traceback" not in str(error):
        return error
    last_line = str(error).strip().splitlines()[-1]
    return BestowEdgeError(last_line.partition(": ")[2])
