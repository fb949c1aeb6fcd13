"""The log of a run, `log.jsonl`: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainerCallback, TrainerState

from bestow_edge.core.files import write_atomically


class JsonLog(TrainerCallback):
    """Appends the records of a stage to a file.

    A killed run may have records after its last save. They are removed when it is resumed, which makes them again.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_train_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:  # noqa: ARG002
        """Remove records that will be made again, and an incomplete line."""
        if state.is_world_process_zero:
            drop_records(self.path, self.stage, after=state.global_step)

    def on_log(
        self,
        args: object,  # noqa: ARG002 - the protocol's
        state: TrainerState,
        control: object,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Write one line."""
        record = {"stage": self.stage, "step": state.global_step, **(logs or {})}
        if state.is_world_process_zero and "train_runtime" not in record:  # the summary of a stage is not a record
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def drop_records(path: Path, stage: str, *, after: int) -> None:
    """Remove the records of a stage after a step from a file of JSON lines, and lines that are not JSON."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _is_kept(line, stage, after)]
    if kept != lines:
        write_atomically(path, "".join(f"{line}\n" for line in kept))


def _is_kept(line: str, stage: str, after: int) -> bool:
    try:
        record = json.loads(line)  # losses may be NaN
    except (ValueError, RecursionError):
        return False
    if not isinstance(record, dict) or not isinstance(step := record.get("step", 0), int):
        return False
    return bool(record.get("stage") != stage or step <= after)
