"""Runs the stages of a recipe one after the other and writes the checkpoint.

Each stage has its own directory in the output, with the training checkpoint from which an interrupted run is resumed. A
complete stage is not run again. `bestow_edge.training.learning.stage_trainer` trains one stage.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from bestow_edge.core.errors import ConfigError, TrainingStoppedError
from bestow_edge.core.files import only_writer, write_atomically
from bestow_edge.core.json_text import read_json
from bestow_edge.training.learning.interruptions import StopSignal, no_orphans, typed_failures
from bestow_edge.training.learning.log import JsonLog
from bestow_edge.training.learning.run import Run, batches_per_step
from bestow_edge.training.learning.stage_trainer import PARTIAL, StageTrainer
from bestow_edge.training.learning.validation import Evaluation
from bestow_edge.training.learning.weights import State, add_lora, mean_state
from bestow_edge.training.recipe.recipe import Recipe
from bestow_edge.training.recipe.stages import StageRecipe

logger = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"
COMPILERS = {"darwin": "clang++", "win32": "cl"}


def train(recipe: Recipe, data_dir: Path, out: Path, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train all stages. A stopped run is resumed.

    `accelerate launch` and `torchrun` start several processes. All must see the directory `out`.

    Args:
        recipe: the recipe.
        data_dir: directory the recipe's manifests are relative to.
        out: directory of the stages, the log and the final `checkpoint/`.
        callbacks: additional Trainer callbacks, such as a progress display.

    Returns:
        The checkpoint's directory.

    Raises:
        ConfigError: if recipe, model and number of processes do not fit each other, or another run writes into `out`.
        ManifestError: if data are missing or wrong.
        TrainingStoppedError: if SIGINT or SIGTERM came. The state is saved.
        TrainingError: if memory or disk are full or a process died. The last save is complete.
    """
    torch.set_num_threads(_threads(recipe.workers))
    with typed_failures("preparing the run"):
        run = Run(recipe, data_dir, out)
        out.mkdir(parents=True, exist_ok=True)
    final = out / "checkpoint"
    with only_writer(out) if _is_first() else nullcontext():
        with StopSignal() as stop:
            for stage in recipe.stages:
                if (out / stage.name / "model").is_dir():
                    logger.info("stage %s is complete, its weights are loaded", stage.name)
                else:
                    with typed_failures(f"stage {stage.name}"), no_orphans():
                        _train_stage(run, stage, stop, callbacks)
                run.load_stage(stage)
        if _is_first():
            with typed_failures("writing the checkpoint"):
                run.save(run.objective.state_dict(), final)
        _wait()
    return final


def _train_stage(run: Run, stage: StageRecipe, stop: StopSignal, callbacks: Sequence[TrainerCallback]) -> None:
    directory = run.out / stage.name
    if stage.lora:
        set_seed(run.recipe.seed)
        add_lora(run.objective.model.llm, stage.lora)
    _check_compiler(stage)
    run.objective.prepare(stage)
    arguments = _arguments(run, stage, directory)
    processes = arguments.world_size
    _check(run, stage, directory, processes)
    if aligned := run.align(stage, process=arguments.process_index, processes=processes):
        _wait()
        run.read_aligned(aligned, processes)
    last = _last_complete(directory)
    trainer = StageTrainer(
        stop=stop,
        evaluation=Evaluation(run, stage),
        snapshots=directory / "snapshots" if stage.average > 1 else None,
        resumed=last,
        model=run.objective,
        args=arguments,
        train_dataset=run.dataset(stage, dev=False, processes=processes),
        eval_dataset=run.dataset(stage, dev=True),
        callbacks=[JsonLog(run.out / "log.jsonl", stage.name), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # it prints the records, which go to the log and to the callbacks
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(run.out / "tensorboard" / stage.name)
    torch.manual_seed(run.recipe.seed + arguments.process_index)  # each process has its own dropout
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if trainer.stopping and trainer.state.global_step < stage.steps:
        raise TrainingStoppedError(stop.signum, stage.name, trainer.state.global_step)
    state = trainer.full_state()
    if trainer.is_world_process_zero():
        run.save_stage(stage, _averaged(state, stage, directory))
    _wait()
    if stage is not run.recipe.stages[-1] and trainer.any_process(stop.signum != 0):
        raise TrainingStoppedError(stop.signum, stage.name, stage.steps)


def _averaged(state: State, stage: StageRecipe, directory: Path) -> State:
    """Return the mean of the weights at the last saves if the stage asks for it. Files have tied weights once."""
    if stage.average == 1:
        return state
    found = sorted(directory.glob("snapshots/*.safetensors"), key=lambda path: int(path.stem))
    kept = [path for path in found if int(path.stem) <= stage.steps][-stage.average :]
    logger.info("stage %s: mean of the weights at steps %s", stage.name, ", ".join(path.stem for path in kept))
    return mean_state(kept)


def _check_compiler(stage: StageRecipe) -> None:
    """Check that the C++ compiler is installed that torch.compile uses on CPUs.

    Raises:
        ConfigError: if it is missing.
    """
    compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    if stage.compile and not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ConfigError(
            f"stage {stage.name}: compile needs a C++ compiler here, and {compiler} is not on the path; "
            "install it, or remove compile"
        )


def _check(run: Run, stage: StageRecipe, directory: Path, processes: int) -> None:
    """Compare the number of processes with an earlier start, and remove the latter's incomplete checkpoint.

    Raises:
        ConfigError: if the numbers of batches differ, or FSDP cannot run the encoder.
    """
    batches = batches_per_step(stage, processes)
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and "encoder" in stage.trained and run.config.encoder.network.get("layerdrop"):
        raise ConfigError(
            f"stage {stage.name}: under FSDP all processes run all layers; set layerdrop: 0 in the encoder"
        )
    settings = directory / SETTINGS_FILE
    if settings.is_file():
        before = read_json(settings).get("batches_per_step")
        if before != batches:
            raise ConfigError(
                f"stage {stage.name} began with {before} batches a step, now there would be {batches}; "
                f"set batches_per_step: {before} or start as many processes as before"
            )
    _wait()
    if _is_first():
        shutil.rmtree(directory / PARTIAL, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(settings, json.dumps({"batches_per_step": batches}) + "\n")
    _wait()


def _last_complete(directory: Path) -> Path | None:
    """Return the newest whole training checkpoint of the stage: Trainer writes its state last."""
    complete = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=lambda path: int(path.name.partition("-")[2])) if complete else None


def _arguments(run: Run, stage: StageRecipe, directory: Path) -> TrainingArguments:
    recipe = run.recipe
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # one item of the dataset is a whole batch
        gradient_accumulation_steps=batches_per_step(stage, processes) // processes,
        optim="adamw_torch_fused",
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        adam_beta2=0.98,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=bool(run.config.encoder.network.get("layerdrop")),
        save_steps=recipe.save_steps,
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps or recipe.save_steps,
        dataloader_num_workers=recipe.workers,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to=list(recipe.report_to),
        seed=recipe.seed,
        disable_tqdm=True,
        label_names=["targets"],
    )


def _threads(workers: int) -> int:
    """Return the threads of one process. With more threads than cores, training was ten times slower.

    A single process follows OMP_NUM_THREADS, because workers that read only texts leave their cores idle. Of several
    processes the launcher sets it to 1 by default, so it is ignored.
    """
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if on_machine == 1 and chosen.isdecimal() and int(chosen):
        return int(chosen)
    return max(1, ((os.cpu_count() or 1) - workers * on_machine) // on_machine)


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
