"""The fields of one stage of a recipe: objective, trained parts, optimiser and losses. No torch.

Each stage begins with the weights of the stage before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.ranges import check_ranges

MOST_STEPS = 10_000_000  # of a stage
Part = Literal["encoder", "connector", "llm"]
USED: dict[str, tuple[Part, ...]] = {
    "bestow": ("encoder", "connector", "llm"),
    "ctc": ("encoder",),
    "reading": ("encoder", "connector"),
    "text": ("llm",),
}
"""Parts of the model that each objective runs."""
ANSWER_FIELDS = ("streaming", "pauses", "attention_weight", "reading_weight")  # fields that concern the answer
ENCODER_LOSSES = ("ctc_weight", "alignment_weight", "count_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecipe:
    """LoRA: low-rank changes of the LLM's matrices are trained, not the matrices. Checkpoints have them added."""

    rank: int = 16
    """Rank of each change; the paper's LoRA runs have 1024 (section 4.1) and 256 (Table 4)."""
    alpha: float = 32.0
    """Changes are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before each change, training only."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last parts of the names of the linear layers that get LoRA."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ConfigError(f"lora: need rank >= 1, alpha > 0, 0 <= dropout < 1 and targets, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """One stage of training."""

    name: str
    """Name of its directory under the output."""
    steps: int
    """Optimiser steps."""
    batch_s: float
    """Seconds of audio in a batch."""
    learning_rate: float
    """Peak learning rate; cosine decay to 0 after `warmup_steps`."""
    objective: Literal["bestow", "ctc", "reading", "text"] = "bestow"
    """`bestow`: the answer, given speech. `ctc`: the encoder only, by the losses on its output; the heads of these
    losses are not part of a checkpoint. `reading`: encoder and connector without the LLM; the connector's output is
    compared with the LLM's token embeddings. `text`: the LLM only, as a language model of texts without speech."""
    sources: dict[str, float] = field(default_factory=dict)
    """Names of `data.sources` to draw from, with their shares of the batches: `{digits: 2, read: 1}`. Empty = all by
    their own weights; `ctc` and `reading` leave out texts."""
    trains: tuple[Part, ...] = ()
    """Parts to train: encoder, connector, llm. The others are frozen. Empty = all parts that the objective uses, with
    `lora` without the llm."""
    lora: LoraRecipe | None = None
    """Train low-rank changes of the LLM. Its own weights are frozen."""
    batches_per_step: int = 0
    """Batches of one optimiser step over all processes. Each process accumulates the gradients of its share. Losses are
    equal for any number of processes that divides this number. 0 = one batch for each process."""
    warmup_steps: int = 100
    """Linear warm-up, steps."""
    weight_decay: float = 1e-3
    """AdamW's weight decay of matrices (paper: 1e-3)."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to this norm (paper: 1.0); 0 = never."""
    activation_checkpointing: bool = False
    """Save only the inputs of encoder and LLM layers and compute the rest again: far less memory, a third more time."""
    compile: bool = False
    """Compile encoder and LLM layers with torch.compile: one or two minutes at the start, then faster steps. On CPUs it
    needs a C++ compiler."""
    pieces: tuple[int, ...] = (1, 1)
    """Most recordings of a joined utterance at the first and at the last step, for sources with `join`."""
    augment: tuple[float, ...] = (1.0, 1.0)
    """Factor of the chances and ranges of `data.augment` at the first and at the last step."""
    streaming: float = 0.0
    """Share of utterances with a wait-k mask. The others are offline (K * L = infinity)."""
    k_min: int = 3
    """Smallest K drawn, per utterance (paper: 3)."""
    k_max: int = 12
    """Largest K drawn (paper: 12)."""
    pauses: float = 0.0
    """Share of positions that are shown before their word was heard, with a pause (EOS) as target; needs word times."""
    prefixes: float = 0.0
    """Share of utterances that are cut off at a random moment, as a stream is while its encoder has heard no more; the
    answer ends with the last word before. For encoders that encode all audio again; needs word times."""
    ctc_weight: float = 0.0
    """Weight of the CTC loss on the encoder's output."""
    alignment_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the label of its word; needs word times."""
    count_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the number of words until then; needs word times."""
    blank_weight: float = 1.0
    """Weight of the end token in the loss of the answer: of pauses and, for connector `interleave`, of BLANK, which is
    the target of most turns. Below 1 the model learns sooner to write."""
    attention_weight: float = 0.0
    """Weight of the loss on each answer token's cross-attention to its own word; needs word times."""
    reading_weight: float = 0.0
    """Weight of the loss of `reading` in addition to that of the answer, for `bestow`."""
    lookaheads: tuple[int, ...] = (13,)
    """Look-aheads of the encoder, of which one is drawn for each batch."""
    best: Literal["", "loss", "right", "wer", "bleu"] = ""
    """Dev metric of the checkpoint `best/` in the stage's directory. `right` is the share of right next tokens; `wer`
    and `bleu` are those of the hypotheses. Empty = no such checkpoint."""
    average: int = 1
    """Number of last saves whose weights are averaged for the stage's result, which helps small models. 1 = the
    last."""

    def __post_init__(self) -> None:
        """Check ranges and contradictions."""
        if not self.name or "/" in self.name or self.name in {".", "..", "checkpoint", "tensorboard"}:
            raise ConfigError(f"stage {self.name!r}: choose another name, it names a directory of the run")
        if self.steps < 1 or self.batch_s <= 0 or self.learning_rate <= 0:
            raise ConfigError(f"stage {self.name}: steps, batch_s and learning_rate must be more than 0")
        if len(self.pieces) != 2 or len(self.augment) != 2 or min(self.pieces) < 1 or min(self.augment) < 0:
            raise ConfigError(f"stage {self.name}: pieces and augment are two numbers each, first and last step")
        if not 1 <= self.k_min <= self.k_max:
            raise ConfigError(f"stage {self.name}: need 1 <= k_min <= k_max, got {self.k_min} and {self.k_max}")
        if not self.lookaheads:
            raise ConfigError(f"stage {self.name}: lookaheads is empty; give at least one")
        numbers = (self.batches_per_step, self.warmup_steps, self.weight_decay, self.max_grad_norm)
        if min(numbers) < 0 or self.average < 1:
            names = "batches_per_step, warmup_steps, weight_decay and max_grad_norm"
            raise ConfigError(f"stage {self.name}: {names} must be at least 0 and average at least 1")
        where, most = f"stage {self.name}", (0, MOST_STEPS)
        check_ranges(where, self, steps=(1, MOST_STEPS), batch_s=(0, 1e6), learning_rate=(0, 1e3), warmup_steps=most)
        check_ranges(where, self, batches_per_step=most, weight_decay=(0, 1e3), max_grad_norm=(0, 1e9), average=most)
        check_ranges(where, self, streaming=(0, 1), pauses=(0, 1), prefixes=(0, 1))
        check_ranges(where, self, blank_weight=(0, 1e3))
        self._check_objective()
        self._check_parts()

    def _check_objective(self) -> None:
        where = f"stage {self.name}: objective {self.objective}"
        weightless = {
            "bestow": (),
            "ctc": ANSWER_FIELDS,
            "reading": ("reading_weight",),
            "text": ("prefixes", *ANSWER_FIELDS, *ENCODER_LOSSES),
        }[self.objective]
        if unused := [name for name in weightless if getattr(self, name)]:
            raise ConfigError(f"{where} has no use for {', '.join(unused)}; remove what contradicts it")
        if self.objective == "ctc" and not (self.ctc_weight or self.alignment_weight):
            raise ConfigError(f"{where} has no loss; set ctc_weight: 1.0 (or alignment_weight where words have times)")
        texts = ("wer", "bleu") if self.objective == "bestow" else ()
        known = ("", "loss") if self.objective == "ctc" else ("", "loss", "right", *texts)
        if self.best not in known:
            raise ConfigError(f"{where} has no {self.best}; best is one of {', '.join(known[1:])}")

    def _check_parts(self) -> None:
        where = f"stage {self.name}"
        used = USED[self.objective]
        if strangers := [part for part in self.trains if part not in used]:
            raise ConfigError(f"{where}: objective {self.objective} does not run {', '.join(strangers)}; see trains")
        if self.lora and "llm" not in used:
            raise ConfigError(f"{where}: lora changes the LLM, which objective {self.objective} does not run")
        if self.lora and "llm" in self.trains:
            raise ConfigError(f"{where}: lora freezes the LLM's own weights; remove llm from trains, or lora")
        losses = [name for name in ENCODER_LOSSES if getattr(self, name)]
        if losses and not {"encoder", "connector"} & {*self.trained}:
            raise ConfigError(f"{where}: {', '.join(losses)} teach the encoder, which is frozen; see trains")

    @property
    def trained(self) -> tuple[Part, ...]:
        """Parts whose own weights are trained."""
        if self.trains:
            return self.trains
        return tuple(part for part in USED[self.objective] if not (self.lora and part == "llm"))


def between(ends: Sequence[float], done: float) -> float:
    """Return the value at the share `done` of the way from the first to the last value."""
    return ends[0] + (ends[1] - ends[0]) * done
