"""Evaluation between steps: losses on the dev set, hypotheses with their scores, the best weights so far.

Each process takes its share of the dev batches and of the utterances. Sums and texts are gathered.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import read_json
from bestow_edge.core.policy import Offline, Policy, WaitK
from bestow_edge.core.request import default_policy
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.data.tokens import prompt_ids
from bestow_edge.training.learning.decoding import Utterance, scores, utterances_of, write_down
from bestow_edge.training.learning.log import drop_records
from bestow_edge.training.learning.objective import PARTS, count_items
from bestow_edge.training.learning.run import DEV_BATCHES, Run
from bestow_edge.training.learning.weights import State
from bestow_edge.training.recipe.stages import StageRecipe

if TYPE_CHECKING:
    from bestow_edge.training.learning.stage_trainer import StageTrainer

BEST_FILE = "best.json"
HIGHER_IS_BETTER = {"right", "bleu"}
SAMPLES = "samples.jsonl"


class Evaluation:
    """The dev set of a stage and its metrics."""

    def __init__(self, run: Run, stage: StageRecipe) -> None:
        """Store run and stage. Batches are made at the first evaluation and kept."""
        self._run, self.stage = run, stage
        self._batches: list[tuple[Batch, float]] = []
        self._utterances: list[Utterance] = []
        self._prompts = {tuple(prompt_ids(run.tokenizer, pair, run.config.chat)): pair for pair in run.config.pairs}

    def run(self, trainer: StageTrainer) -> dict[str, float]:
        """Return metrics with Trainer's prefix: `eval_loss` and its parts, `eval_right`, `eval_wer`, `eval_bleu`."""
        if not self._batches:
            self._read(trainer)
        total = torch.zeros(2, len(PARTS), device=trainer.args.device)
        for batch, share in self._batches:
            on_device = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            counts = count_items(on_device, trainer.objective.target_weights(on_device["targets"]))
            with torch.no_grad():
                sums = trainer.objective(**on_device, items=counts)["sums"]
            total += share * torch.stack([sums, counts])
        if trainer.processes > 1:
            torch.distributed.all_reduce(total)
        parts = total[0] / total[1].clamp(min=1e-6)
        weights = parts.new_tensor(trainer.objective.loss_weights)
        metrics = {"eval_loss": float((weights * parts).sum())}
        shown = zip(PARTS, parts.tolist(), total[1].tolist(), trainer.objective.loss_weights, strict=True)
        answered = self.stage.objective != "ctc"
        metrics |= {f"eval_{name}": v for name, v, n, w in shown if n and (w or (name == "right" and answered))}
        if self._utterances:
            metrics |= self._hypotheses(trainer)
        return metrics

    def _read(self, trainer: StageTrainer) -> None:
        """Make this process's dev batches. All processes have equally many; surplus ones have weight 0."""
        dataset = self._run.dataset(self.stage, dev=True)
        rounds = -(-DEV_BATCHES // trainer.processes)
        mine = range(trainer.args.process_index, rounds * trainer.processes, trainer.processes)
        self._batches = [(dataset[index % DEV_BATCHES], float(index < DEV_BATCHES)) for index in mine]
        wanted = self._run.recipe.hypotheses.utterances
        continuous = CONNECTORS[self._run.config.connector.kind].continuous
        for index in range(DEV_BATCHES if self.stage.objective == "bestow" else 0):
            if len(self._utterances) < wanted:
                self._utterances += utterances_of(dataset[index], continuous=continuous)
        self._utterances = self._utterances[:wanted]

    def _hypotheses(self, trainer: StageTrainer) -> dict[str, float]:
        recipe, config = self._run.recipe.hypotheses, self._run.config
        rank, processes = trainer.args.process_index, trainer.processes
        rows = -(-len(self._utterances) // processes)
        mine = [self._utterances[(rank * rows + row) % len(self._utterances)] for row in range(rows)]
        answers = write_down(
            trainer.objective,
            mine,
            self._policy(),
            lookahead=config.encoder.default_right_context if recipe.lookahead is None else recipe.lookahead,
            end_id=self._run.end_id,
            device=trainer.args.device,
            any_process=trainer.any_process,
        )
        texts = [self._texts(item, answer) for item, answer in zip(mine, answers, strict=True)]
        if processes > 1:
            gathered: list[Any] = [None] * processes  # Any: torch fills it
            torch.distributed.all_gather_object(gathered, texts)
            texts = list(chain.from_iterable(gathered))[: len(self._utterances)]
        if trainer.is_world_process_zero():
            self._write_samples(trainer.state.global_step, texts)
        transcripts = {pair: pair.split("-")[0] == pair.split("-")[1] for pair in config.pairs}
        return {f"eval_{name}": value for name, value in scores(texts, transcripts).items()}

    def _policy(self) -> Policy:
        """Return wait-k, the model's own policy if its connector decides itself when it writes, else offline."""
        config = self._run.config
        if CONNECTORS[config.connector.kind].continuous:
            return default_policy(None, config.policy)
        policy = WaitK(self._run.recipe.hypotheses.k or config.policy.k, config.policy.l)
        return policy if CONNECTORS[config.connector.kind].follows(policy) else Offline()

    def _texts(self, item: Utterance, answer: list[int]) -> tuple[str, str, str]:
        decode = self._run.tokenizer.decode
        kind = self._prompts.get(item.prompt, "other")
        return kind, decode(list(item.reference)).strip(), decode(answer).strip()

    def _write_samples(self, step: int, texts: list[tuple[str, str, str]]) -> None:
        path = self._run.out / SAMPLES
        drop_records(path, self.stage.name, after=step - 1)
        with path.open("a", encoding="utf-8") as file:
            for pair, reference, hypothesis in texts:
                record = {"stage": self.stage.name, "step": step, "pair": pair}
                record |= {"reference": reference, "hypothesis": hypothesis}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def is_best(self, metrics: dict[str, float], step: int) -> bool:
        """Return whether the stage's metric `best` is better than at every earlier evaluation."""
        name = self.stage.best
        if not name or f"eval_{name}" not in metrics:
            return False
        path = self._run.out / self.stage.name / BEST_FILE
        if not path.is_file():
            return True
        try:
            kept = read_json(path)
        except ConfigError:  # damaged, or its value is NaN
            return True
        value, before, at = metrics[f"eval_{name}"], kept.get("value"), kept.get("step")
        if kept.get("metric") != name or not isinstance(at, int) or not isinstance(before, int | float):
            return True
        if at >= step:  # of a run that was killed after its last save
            return True
        return bool(value > before if name in HIGHER_IS_BETTER else value < before)

    def keep_best(self, state: State, metrics: dict[str, float], step: int) -> None:
        """Write the weights to `best/`, then step and metric to `best.json`."""
        directory = self._run.out / self.stage.name
        self._run.save(state, directory / "best")
        record = {"metric": self.stage.best, "step": step, "value": metrics[f"eval_{self.stage.best}"]}
        write_atomically(directory / BEST_FILE, json.dumps(record) + "\n")
