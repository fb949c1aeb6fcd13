"""The fields of one stage of a recipe: what it teaches, which weights move and how. Knows checks, not torch.

Each stage begins with the weights of the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bestow_edge.core.errors import ConfigError

Part = Literal["encoder", "connector", "llm"]
USED: dict[str, tuple[Part, ...]] = {
    "bestow": ("encoder", "connector", "llm"),
    "ctc": ("encoder",),
    "reading": ("encoder", "connector"),
    "text": ("llm",),
}
"""Parts of the model that each objective runs."""
ANSWER_FIELDS = ("streaming", "pauses", "attention_weight", "reading_weight")  # of the answer and its view of speech
ENCODER_LOSSES = ("ctc_weight", "alignment_weight", "count_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecipe:
    """Low-rank changes of the LLM's matrices in place of the matrices; added to them in every checkpoint."""

    rank: int = 16
    """Rank of each change; the paper's LoRA runs have 1024 (section 4.1) and 256 (Table 4)."""
    alpha: float = 32.0
    """Changes are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before each change, training only."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Ends of the names of the LLM's linear layers that get one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ConfigError(f"lora: need rank >= 1, alpha > 0, 0 <= dropout < 1 and targets, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """One stage of training; each starts from the weights of the one before."""

    name: str
    """Name of its directory under the output."""
    steps: int
    """Optimiser steps."""
    batch_s: float
    """Seconds of audio in a batch."""
    learning_rate: float
    """Peak learning rate; cosine decay to 0 after `warmup_steps`."""
    objective: Literal["bestow", "ctc", "reading", "text"] = "bestow"
    """`bestow`: the answer, given speech. `ctc`: the encoder alone, by the weights of the losses on its output; its
    heads are no part of a checkpoint. `reading`: the answer by encoder and connector without the LLM, whose embeddings of
    tokens the connector's output is compared with. `text`: the LLM alone as a language model of the batches' texts, no
    speech."""
    sources: dict[str, float] = field(default_factory=dict)
    """Names of the `data.sources` it draws from, with their shares of the batches: `{digits: 2, read: 1}`. Empty = all
    by their own weights; `ctc` and `reading` leave out texts."""
    trains: tuple[Part, ...] = ()
    """Parts whose weights move: encoder, connector, llm; the others are frozen. Empty = all that the objective uses, but
    with `lora` not the llm."""
    lora: LoraRecipe | None = None
    """Train low-rank changes of the LLM; its own weights are frozen."""
    batches_per_step: int = 0
    """Batches whose gradients make one optimiser step, over all processes; each process accumulates its share. The same
    number gives the same losses on any number of processes that divides it. 0 = one for each process."""
    warmup_steps: int = 100
    """Linear warm-up, steps."""
    weight_decay: float = 1e-3
    """AdamW's weight decay of matrices (paper: 1e-3)."""
    max_grad_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it (paper: 1.0); 0 = never."""
    activation_checkpointing: bool = False
    """Keep only the inputs of encoder and LLM layers and compute the rest again: far less memory, a third more time."""
    compile: bool = False
    """Compile encoder and LLM layers with torch.compile: a minute or two at the start, then faster steps. On CPUs it
    needs a C++ compiler."""
    pieces: tuple[int, ...] = (1, 1)
    """Most recordings that sources with `join` join into one utterance, at the first and at the last step."""
    augment: tuple[float, ...] = (1.0, 1.0)
    """Strength of `data.augment` at the first and at the last step: its chances and ranges are multiplied by it."""
    streaming: float = 0.0
    """Share of utterances under a wait-k mask; the others are offline (K * L = infinity)."""
    k_min: int = 3
    """Smallest K drawn, per utterance (paper: 3)."""
    k_max: int = 12
    """Largest K drawn (paper: 12)."""
    pauses: float = 0.0
    """Share of positions whose word has not been heard yet and whose target is a pause (EOS); needs word times."""
    ctc_weight: float = 0.0
    """Weight of the CTC loss on the encoder's output."""
    alignment_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the word heard there; needs word times."""
    count_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the number of words heard so far; needs word times."""
    attention_weight: float = 0.0
    """Weight of the loss that turns each answer token's cross-attention to its own word; needs word times."""
    reading_weight: float = 0.0
    """Weight of the loss of objective `reading` beside that of the LLM's answer, for `bestow`."""
    lookaheads: tuple[int, ...] = (13,)
    """Look-aheads one of which is drawn for each batch."""
    best: Literal["", "loss", "right", "wer", "bleu"] = ""
    """Dev metric by which `best/` in the stage's directory is kept, a whole checkpoint. `right` is the share of right
    next tokens, `wer` and `bleu` those of the hypotheses. Empty = keep none."""
    average: int = 1
    """The stage's result is the mean of the weights at its last so many saves; helps small models. 1 = the last."""

    def __post_init__(self) -> None:
        """Check ranges and what contradicts itself."""
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
        self._check_objective()
        self._check_parts()

    def _check_objective(self) -> None:
        where = f"stage {self.name}: objective {self.objective}"
        weightless = {
            "bestow": (),
            "ctc": ANSWER_FIELDS,
            "reading": ("reading_weight",),
            "text": (*ANSWER_FIELDS, *ENCODER_LOSSES),
        }[self.objective]
        if set_ones := [name for name in weightless if getattr(self, name)]:
            raise ConfigError(f"{where} has no use for {', '.join(set_ones)}; remove what contradicts it")
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
        if losses and "encoder" not in self.trained:
            raise ConfigError(f"{where}: {', '.join(losses)} teach the encoder, which is frozen; see trains")

    @property
    def trained(self) -> tuple[Part, ...]:
        """Parts whose own weights move."""
        if self.trains:
            return self.trains
        return tuple(part for part in USED[self.objective] if not (self.lora and part == "llm"))


def between(ends: Sequence[float], done: float) -> float:
    """Return the value at a share `done` of the way from the first to the last."""
    return ends[0] + (ends[1] - ends[0]) * done
