"""A progress bar for each stage of training: a callback of transformers' Trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from bestow_edge.cli.show.console import err, say

SHOWN = ("loss", "token_loss", "ctc_loss", "right", "eval_loss", "eval_right", "eval_wer", "eval_bleu")
"""Fields of the Trainer's log beside the bar, in this order."""


@contextmanager
def stage_bars() -> Iterator[TrainerCallback]:
    """Yield the callback that shows the bars, and silence transformers, which would repeat each log."""
    for name in ("transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    counts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    columns = *counts, TextColumn("{task.fields[losses]}"), TimeRemainingColumn()
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield _StageCallback(progress)


class _StageCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._stage = ""
        self._losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the protocol's
        """Add the bar of a stage. The name of the stage is that of its directory."""
        self._stage, self._losses = Path(args.output_dir).name, {}
        resumed = f", going on at step {state.global_step}" if state.global_step else ""
        say(f"stage {self._stage}: {state.max_steps} steps{resumed}")
        self._task = self._progress.add_task(self._stage, total=state.max_steps, completed=state.global_step, losses="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the protocol's
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Show losses beside the bar; without a terminal, as a line."""
        new = {name: f"{name} {float(logs[name]):.3f}" for name in SHOWN if (logs or {}).get(name)}
        self._losses |= new
        if self._task is not None:
            shown = [self._losses[name] for name in SHOWN if name in self._losses]
            self._progress.update(self._task, losses=" ".join(shown))
        if new and self._progress.disable:
            say(f"stage {self._stage}: step {state.global_step} of {state.max_steps}: {' '.join(new.values())}")
