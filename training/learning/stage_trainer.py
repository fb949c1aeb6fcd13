"""transformers' Trainer for one stage. Losses are exact for any number of processes and after any interruption.

Differences from Trainer:

- the loss of a step is normalised over all its batches in all processes (`objective.count_items`);
- evaluation sums the losses over the dev batches and decodes some dev utterances;
- a training checkpoint is written atomically and holds the running sums of the log's records.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl

from bestow_edge.core.errors import ConfigError, TrainingError
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.learning.interruptions import GOES_ON, StopSignal, is_disk_full, prepare_worker
from bestow_edge.training.learning.objective import PARTS, Objective, count_items
from bestow_edge.training.learning.validation import Evaluation
from bestow_edge.training.learning.weights import State, flush_directory, load_state, merged, read_state, save_state

WEIGHTS, RECORDS, PARTIAL = "model.safetensors", "records-{}.json", ".partial"
KEPT = 0.95  # weight of earlier steps in the smoothed parts of the loss


class StageTrainer(Trainer):
    """Trains one stage."""

    def __init__(
        self, *, stop: StopSignal, evaluation: Evaluation, snapshots: Path | None, resumed: Path | None, **kwargs: Any
    ) -> None:
        """Wrap Trainer.

        Args:
            stop: records signals. All processes stop at the same step.
            evaluation: of the dev set.
            snapshots: directory for the weights at each save, from which their mean is made; None = no snapshots.
            resumed: the training checkpoint that is resumed; None = none.
            **kwargs: arguments of Trainer.
        """
        self.stop, self.evaluation, self.snapshots, self.resumed = stop, evaluation, snapshots, resumed
        self.stopping = False
        self._counted = torch.zeros(0)  # 1 for the parts of the loss that have items in this step
        self._sums: Tensor | None = None  # of the parts of this step's loss
        self._smoothed: Tensor | None = None  # (2, parts) smoothed sums, and their weights
        self.directory = Path(kwargs["args"].output_dir)
        super().__init__(**kwargs)
        self.loss_is_scaled_for_ga = True
        self.objective: Objective = kwargs["model"]
        self.add_callback(_Interruptions(self))

    @property
    def processes(self) -> int:
        """Processes that train together."""
        return int(self.args.world_size)

    def create_accelerator_and_postprocess(self) -> None:
        """Use FSDP on CPUs too, which accelerate supports on GPUs only, and save its state sharded.

        Raises:
            ConfigError: if the launcher asks for version 1 of FSDP.
        """
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if wanted and state.distributed_type in {DistributedType.MULTI_CPU, DistributedType.FSDP}:
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = getattr(state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
            if state.fsdp_plugin.fsdp_version != 2:
                raise ConfigError("FSDP version 1 is not supported; start with accelerate launch --fsdp_version 2")
            state.fsdp_plugin.set_state_dict_type("SHARDED_STATE_DICT")
            if self.accelerator.mixed_precision == "bf16":  # autocast casts; inputs and losses keep their dtype
                state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
                )
            self.is_fsdp_enabled = True

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:  # Any: passed through
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]  # Trainer's own
        if self.is_fsdp_enabled:
            for name in ("encode", "logits"):
                register_fsdp_forward_method(self.objective, name)
        return prepared

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return batches r, r + N, r + 2 N, ... for process r of N."""
        dataset: Any = self.train_dataset  # Any: a MixedDataset, whose type Trainer loses
        loader = DataLoader(
            dataset,
            batch_size=1,  # one item of the dataset is a whole batch
            sampler=SequentialSampler(dataset),
            collate_fn=_only,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.device.type == "cuda",
            worker_init_fn=prepare_worker,
        )
        shared: DataLoader[Batch] = self.accelerator.prepare(loader)
        return shared

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device) -> Any:
        """Return the batches of a step, and the number of items of its losses in all processes."""
        self._end_step()
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        stopped = torch.tensor([float(self.stop.signum != 0)])
        items = [count_items(batch, self.objective.target_weights(batch["targets"])) for batch in batches]
        counts = torch.cat([torch.stack(items).sum(0), stopped.to(device)])
        if self.processes > 1:
            torch.distributed.all_reduce(counts)
        self.stopping = self.processes > 1 and bool(counts[-1])
        return batches, counts[:-1]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's signature
        num_items_in_batch: Any = None,
    ) -> Any:  # Any: Trainer's own types are wider
        """Return this batch's share of the step's loss, times the processes, because their gradients are averaged."""
        with self.accelerator.autocast():
            outputs = model(**inputs, items=num_items_in_batch)
        shares = outputs["sums"] / num_items_in_batch.clamp(min=1e-6)
        self._sums = shares if self._sums is None else self._sums + shares
        self._counted = (num_items_in_batch > 0).float()
        return outputs["loss"] * self.processes

    def _end_step(self) -> None:
        if self._sums is not None:
            step = torch.stack([self._sums, self._counted])
            before = torch.zeros_like(step) if self._smoothed is None else self._smoothed
            self._smoothed = torch.where(self._counted > 0, KEPT * before + (1 - KEPT) * step, before)
            self._sums = None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:  # Any: passed through
        """Add the smoothed parts of the loss to Trainer's record."""
        if "loss" in logs:
            self._end_step()
            parts = self._smoothed
            if parts is not None:
                sums, weights = parts.clone()
                if self.processes > 1:
                    torch.distributed.all_reduce(sums)
                shown = (sums / weights.clamp(min=1e-6)).tolist()
                logs |= {name: round(value, 4) for name, value in zip(PARTS, shown, strict=True)}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Evaluate on the dev set, log the metrics and keep the best weights."""
        self.objective.eval()
        with self.accelerator.autocast():
            metrics = self.evaluation.run(self)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        best = self.is_world_process_zero() and self.evaluation.is_best(metrics, self.state.global_step)
        if self.any_process(best):
            state = self.full_state()
            if self.is_world_process_zero():
                self._typed(lambda: self.evaluation.keep_best(state, metrics, self.state.global_step))
        return metrics

    def full_state(self) -> State:
        """Return all weights with LoRA merged. All processes must call it; the first gets the result."""
        if self.is_fsdp_enabled:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state: Any = get_model_state_dict(self.objective, options=options)  # Any: of more types than it holds
        else:
            state = self.objective.state_dict()
        return merged(state, self.objective.prepared.lora) if state else {}

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # Any: Trainer's
        """Write Trainer's checkpoint to a temporary directory, rename it and remove the one before."""
        directory, step = self.directory, self.state.global_step
        target = directory / f"checkpoint-{step}"
        partial = directory / PARTIAL
        self._typed(lambda: self._write(model, trial, partial, step))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            flush_directory(partial)
            if target.exists():
                shutil.rmtree(target)
            (partial / target.name).rename(target)
            for other in directory.glob("checkpoint-*"):
                if other != target:
                    shutil.rmtree(other)
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()

    def _write(self, model: torch.nn.Module, trial: Any, partial: Path, step: int) -> None:  # Any: as above
        (partial / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)
        self._end_step()
        records = {
            "loss": float(self._tr_loss),
            "logged": self._globalstep_last_logged,
            "smoothed": None if self._smoothed is None else self._smoothed.tolist(),
        }
        path = partial / f"checkpoint-{step}" / RECORDS.format(self.args.process_index)
        path.write_text(json.dumps(records), encoding="utf-8")
        regular = step % self.args.save_steps == 0 or step == self.state.max_steps
        if self.snapshots is not None and regular:
            state = self.full_state()
            if self.is_world_process_zero():
                save_state(state, self.snapshots / f"{step}.safetensors")
                found = sorted(self.snapshots.glob("*.safetensors"), key=lambda path: int(path.stem))
                for old in [path for path in found if int(path.stem) <= step][: -self.objective.prepared.average]:
                    old.unlink()

    def _typed(self, write: Callable[[], None]) -> None:
        """Call `write`. If the disk is full, remove the incomplete checkpoint.

        Raises:
            TrainingError: if the disk is full.
        """
        try:
            write()
        except (OSError, RuntimeError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
            shutil.rmtree(self.directory / PARTIAL, ignore_errors=True)
            raise TrainingError(
                f"{self.args.output_dir}: no space left to save step {self.state.global_step} ({error}); "
                f"free some; {GOES_ON}, which is complete"
            ) from error

    def any_process(self, flag: bool) -> bool:
        """Return whether a flag is set in any process."""
        if self.processes == 1:
            return flag
        total = torch.tensor(float(flag), device=self.args.device)
        torch.distributed.all_reduce(total)
        return bool(total)

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002 - Any: Trainer's
        return str(self.directory / PARTIAL)

    def _save(self, output_dir: str | None = None, state_dict: State | None = None) -> None:
        """Write the weights of a training checkpoint."""
        if self.args.should_save and output_dir is not None:
            save_state(state_dict or self.objective.state_dict(), Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_state(self.objective, read_state(Path(resume_from_checkpoint) / WEIGHTS), resume_from_checkpoint)

    def resume_records(self) -> None:
        """Restore the running sums of the next record of the log."""
        path = self.resumed and self.resumed / RECORDS.format(self.args.process_index)
        if path and path.is_file():
            records = json.loads(path.read_text(encoding="utf-8"))
            self._tr_loss += records["loss"]
            self._globalstep_last_logged = records["logged"]
            if records["smoothed"] is not None:
                self._smoothed = torch.tensor(records["smoothed"], device=self.args.device)


class _Interruptions(TrainerCallback):
    """Resumes an interrupted run, and ends a run after the current step if a signal came."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Restore the running sums, which Trainer has reset."""
        self.trainer.resume_records()

    def on_step_end(self, args: object, state: object, control: TrainerControl, **_: object) -> None:  # noqa: ARG002 - the protocol's
        """Save and stop."""
        alone = self.trainer.processes == 1 and self.trainer.stop.signum
        if self.trainer.stopping or alone:
            self.trainer.stopping = True
            control.should_save = control.should_training_stop = True


def _only(items: list[Batch]) -> Batch:
    (batch,) = items
    return batch
