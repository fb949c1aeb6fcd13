"""Runs a recipe's stages with transformers' Trainer and writes the checkpoint. Torch side only.

Each stage has a directory of its own under the output with its Trainer checkpoints, from which an interrupted run
resumes; a stage that is complete is not run again. Steps, loss and learning rate also go to `log.jsonl`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from bestow_edge.model.bestow import BestowModel
from bestow_edge.model.checkpoint import load_weights, save_checkpoint
from bestow_edge.training.batches import Batch, BatchDataset, first_speech, read_manifests, read_noises
from bestow_edge.training.compose import Composer
from bestow_edge.training.corpora.dataset import Corpora, MixedDataset
from bestow_edge.training.examples import ExampleMaker
from bestow_edge.training.initial import init_encoder
from bestow_edge.training.objective import Objective
from bestow_edge.training.recipe import Recipe, StageRecipe, model_config
from bestow_edge.training.recipe_data import AugmentRecipe, JoinRecipe
from bestow_edge.training.tokens import BEGIN, CHAT, END, PAD, train_tokenizer

logger = logging.getLogger(__name__)
DEV_BATCHES = 8
FIRST_BATCHES = 50  # one of them has speech, if any has
UNKEPT = {"architectures", "dtype", "transformers_version"}  # fields that say nothing of the model's shape
WORKERS = 1  # one process makes batches while the others' cores train


class Run:
    """A recipe with its data read: what every stage shares."""

    def __init__(self, recipe: Recipe, data_dir: Path, out: Path) -> None:
        """Read manifests, train the tokenizer and build the model with random weights.

        Raises:
            ManifestError: a manifest or a noise directory is missing or wrong.
            ConfigError: the model's parts don't fit.
        """
        self.recipe, self.out = recipe, out
        self.rate_hz = recipe.model.features.sample_rate_hz
        set_seed(recipe.seed)
        self.noises = read_noises(recipe.data, data_dir, self.rate_hz)
        self.corpora = (
            Corpora(recipe.data, recipe.stages, recipe.model.pairs, data_dir) if recipe.data.sources else None
        )
        train = read_manifests(recipe.data.train, data_dir)
        dev = read_manifests(recipe.data.dev, data_dir)
        texts = (
            [text for item in train for text in item.texts.values()] if self.corpora is None else self.corpora.texts()
        )
        if recipe.data.vocabulary:
            texts = [t for item in train if _within(item.texts, recipe) for t in item.texts.values()]
        self.tokenizer = train_tokenizer(texts, recipe.model.pairs, recipe.model.vocab_size)
        self.config = model_config(
            recipe.model, encoder=_encoder_config(recipe), llm=_llm_config(recipe, self.tokenizer), chat=CHAT
        )
        self.composer = Composer(train, recipe.data.vocabulary, recipe.data.join, self.rate_hz)
        self.dev_composer = Composer(dev, recipe.data.vocabulary, JoinRecipe(), self.rate_hz)
        self.objective = Objective(
            BestowModel.from_config(self.config),
            vocab_size=self.tokenizer.get_vocab_size(),
            label_smoothing=recipe.label_smoothing,
        )
        features = self._typical_features() if self.objective.model.streaming else None
        if features is not None:
            init_encoder(self.objective.model.encoder, features)

    def _typical_features(self) -> Tensor | None:
        """Return (1, frames, mel_bins): the first batch of speech in one row; None where all is text."""
        dataset = self.dataset(self.recipe.stages[0], dev=False)
        batch = first_speech(dataset, min(len(dataset), FIRST_BATCHES))
        if batch is None:
            return None
        rows = zip(batch["mel"], batch["frame_lens"].tolist(), strict=True)
        return torch.cat([mel[:length] for mel, length in rows])[None]

    def dataset(self, stage: StageRecipe, *, dev: bool) -> BatchDataset | MixedDataset:
        """Return a stage's batches, for training or for the dev loss."""
        seed = self.recipe.seed * 1000 + self.recipe.stages.index(stage) * 2 + dev
        maker = ExampleMaker(self.config, self.tokenizer, stage, self.config.llm["eos_token_id"])
        num_batches = DEV_BATCHES if dev else stage.steps
        noises = [] if dev else self.noises
        if self.corpora is not None:
            return self.corpora.dataset(maker, dev=dev, num_batches=num_batches, seed=seed, noises=noises)
        composer = self.dev_composer if dev else self.composer
        augments = AugmentRecipe() if dev else self.recipe.data.augment
        return BatchDataset(composer, maker, augments, noises=noises, num_batches=num_batches, seed=seed)

    def save(self, directory: Path) -> None:
        """Write the model as a checkpoint."""
        save_checkpoint(self.objective.model, self.tokenizer.to_str(), directory)


class StageTrainer(Trainer):
    """Trainer that logs the parts of the loss beside their sum."""

    def compute_loss(  # type: ignore[override]  # Trainer's own signature is wider
        self, model: torch.nn.Module, inputs: Batch, return_outputs: bool = False, **_: object
    ) -> Any:  # Any: Trainer wants a tensor or a pair
        """Return the loss and remember its parts."""
        outputs = model(**inputs)
        parts = {name: float(value) for name, value in outputs.items() if name != "loss"}
        self.parts: dict[str, float] = {
            name: 0.95 * getattr(self, "parts", parts)[name] + 0.05 * value for name, value in parts.items()
        }
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:  # Any: passed through
        """Add the smoothed parts to Trainer's own record."""
        if "loss" in logs:
            logs |= {name: round(value, 4) for name, value in self.parts.items()}
        super().log(logs, *args, **kwargs)


class JsonLog(TrainerCallback):
    """Appends every record to a file, one JSON object a line."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_log(self, args: object, state: Any, control: object, logs: Any = None, **_: object) -> None:  # noqa: ARG002
        """Write one line."""  # Any above: the callback protocol's types are not exported
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "step": state.global_step, **(logs or {})}) + "\n")


def train(recipe: Recipe, data_dir: Path, out: Path, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train all stages, resuming where an earlier run stopped.

    Args:
        recipe: what to do.
        data_dir: directory the recipe's manifests are relative to.
        out: directory for the stages, the log and, at last, `checkpoint/`.
        callbacks: more Trainer callbacks, such as a progress display.

    Returns:
        The checkpoint's directory.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - WORKERS))  # more threads than cores slowed it tenfold
    run = Run(recipe, data_dir, out)
    out.mkdir(parents=True, exist_ok=True)
    for stage in recipe.stages:
        done = out / stage.name / "model"
        if done.is_dir():
            logger.info("stage %s is complete, its weights are loaded", stage.name)
            load_weights(run.objective.model, done)
            continue
        _train_stage(run, stage, callbacks)
        run.save(done)
    final = out / "checkpoint"
    run.save(final)
    return final


def _train_stage(run: Run, stage: StageRecipe, callbacks: Sequence[TrainerCallback]) -> None:
    directory = run.out / stage.name
    objective = run.objective
    objective.ctc_weight, objective.alignment_weight = stage.ctc_weight, stage.alignment_weight
    objective.count_weight, objective.attention_weight = stage.count_weight, stage.attention_weight
    trainer = StageTrainer(
        model=run.objective,
        args=_arguments(run.recipe, stage, directory),
        train_dataset=run.dataset(stage, dev=False),
        eval_dataset=run.dataset(stage, dev=True),
        data_collator=_only,
        callbacks=[JsonLog(run.out / "log.jsonl", stage.name), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # it prints; records go to the log and to the callbacks
    last = _last_complete(directory)
    trainer.train(resume_from_checkpoint=last)


def _last_complete(directory: Path) -> str | None:
    """Return the newest checkpoint of the Trainer; one without its state, which is written last, was interrupted."""
    complete = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.partition("-")[2]))) if complete else None


def _arguments(recipe: Recipe, stage: StageRecipe, directory: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # one item of the dataset is a whole batch
        per_device_eval_batch_size=1,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup_steps,
        weight_decay=1e-3,  # paper, section 4.1
        max_grad_norm=1.0,
        adam_beta2=0.98,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_steps=recipe.save_steps,
        save_total_limit=1,
        logging_steps=25,
        eval_strategy="steps",
        eval_steps=recipe.save_steps,
        prediction_loss_only=True,
        dataloader_num_workers=WORKERS,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to=[],
        seed=recipe.seed,
        disable_tqdm=True,
        label_names=["targets"],
    )


def _only(items: Sequence[Batch]) -> Batch:
    (batch,) = items
    return batch


def _within(texts: Any, recipe: Recipe) -> bool:  # Any: mapping of language to text
    return any(set(text.split()) <= set(recipe.data.vocabulary) for text in texts.values())


def _encoder_config(recipe: Recipe) -> dict[str, Any]:
    window = recipe.model.streaming.left_context + 1  # transformers counts the step itself
    return _complete(
        {**recipe.model.encoder, "num_mel_bins": recipe.model.features.num_mel_bins, "sliding_window": window}
    )


def _llm_config(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {name: tokenizer.token_to_id(token) for name, token in (("bos", BEGIN), ("eos", END), ("pad", PAD))}
    extra = {f"{name}_token_id": token_id for name, token_id in ids.items()}
    return _complete({**recipe.model.llm, "vocab_size": tokenizer.get_vocab_size(), **extra})


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Return a transformers config with every field it has, as JSON holds it."""
    options = dict(values)
    model_type = options.pop("model_type")
    full = json.loads(AutoConfig.for_model(model_type, **options).to_json_string(use_diff=False))
    kept = {key: value for key, value in full.items() if key not in UNKEPT and not key.startswith("_")}
    return kept | {"model_type": model_type}
