"""Estimates of a stage before it runs: weights, trainable weights, memory and operations.

They are measured with fake tensors (`torch._subclasses.fake_tensor`), which have a shape but no content. The forward
pass runs as in training, and autograd's hooks report the tensors that it saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.model.base import SpeechModel
from bestow_edge.training.data.examples import FRAMES_PER_S
from bestow_edge.training.learning.objective import PARTS, Objective
from bestow_edge.training.learning.weights import add_lora
from bestow_edge.training.recipe.recipe import Recipe
from bestow_edge.training.recipe.stages import LoraRecipe, StageRecipe

BYTES = 4  # weights, gradients and both moments of AdamW are float32
TYPICAL_S = 12.0  # length of an utterance if there are no data
TYPICAL_TOKENS = 24, 3.1  # tokens of its prompt, and of its answer a second
Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Needs of one process without sharding for a batch. FSDP divides the first three fields by the processes."""

    weights: int
    """Bytes of the weights."""
    gradients: int
    """Bytes of the gradients."""
    optimizer: int
    """Bytes of AdamW's moments."""
    activations: int
    """Bytes that autograd saves between the forward and the backward pass."""
    trainable: dict[str, int]
    """Trainable weights of each part, of the helper heads and of LoRA."""
    forward_flops: int
    """Operations of matrix products and convolutions in a forward pass. Training needs about three times as many."""

    @property
    def total(self) -> int:
        """Bytes in total."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self) | {"total": self.total}


def sizes(config: ModelConfig) -> dict[str, int]:
    """Return the number of weights of each part. Tied weights count once."""
    with FakeTensorMode():
        model = SpeechModel.from_config(config)
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}


def estimate_stage(
    config: ModelConfig, recipe: Recipe, stage: StageRecipe, vocab_size: int, shapes: Shapes
) -> StageEstimate:
    """Measure a stage with batches of these shapes, and heads for a vocabulary of labels of this size."""
    saved_bytes: dict[int, int] = {}  # by storage: views of one storage count once

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved_bytes[storage._cdata] = storage.nbytes()
        return tensor

    if "layerdrop" in (network := config.encoder.network):  # which layers are left out depends on what tensors hold
        config = replace(config, encoder=replace(config.encoder, network=network | {"layerdrop": 0.0}))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        objective = Objective(
            SpeechModel.from_config(config), vocab_size=vocab_size, label_smoothing=recipe.label_smoothing
        )
    if stage.lora:
        _add_fake_lora(objective.model.llm, stage.lora, fake)
    with fake:
        objective.prepare(_measurable(stage))
        objective.train()
        batch: dict[str, Any] = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in shapes.items()}
        batch["lookahead"] = max(stage.lookaheads)
        flops = FlopCounterMode(display=False)
        saved = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
        with flops, saved, torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            outputs = objective(items=torch.ones(len(PARTS)), **batch)
        own = {weight.untyped_storage()._cdata for weight in objective.parameters()}
        activations = sum(size for storage, size in saved_bytes.items() if storage not in own)
        del outputs
        trainable = _trainable(objective)
        weights = sum(weight.numel() for weight in objective.parameters())
    moving = sum(trainable.values())
    return StageEstimate(
        weights=BYTES * weights,
        gradients=BYTES * moving,
        optimizer=2 * BYTES * moving,
        activations=activations,
        trainable=trainable,
        forward_flops=flops.get_total_flops(),
    )


def shapes_of(batch: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of a real batch."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items() if name != "lookahead"}


def typical_shapes(config: ModelConfig, stage: StageRecipe) -> Shapes:
    """Return the shapes of a batch of 12 s utterances, for estimates without data."""
    seconds = min(TYPICAL_S, stage.batch_s)
    rows = max(1, int(stage.batch_s / seconds))
    frames, labels = int(seconds * FRAMES_PER_S), int(seconds * TYPICAL_TOKENS[1])
    tokens, steps = TYPICAL_TOKENS[0] + labels, config.encoder.num_steps(frames)
    if CONNECTORS[config.connector.kind].continuous:
        tokens += steps
    whole = torch.int64
    return {
        "mel": ((rows, frames, config.features.num_mel_bins), torch.float32),
        "frame_lens": ((rows,), whole),
        "token_ids": ((rows, tokens), whole),
        "visible_steps": ((rows, tokens), whole),
        "targets": ((rows, tokens), whole),
        "transcript_ids": ((rows, labels), whole),
        "step_labels": ((rows, steps), whole),
        "step_counts": ((rows, steps), whole),
        "word_steps": ((rows, tokens, 2), whole),
    }


def _add_fake_lora(llm: nn.Module, lora: LoraRecipe, fake: FakeTensorMode) -> None:
    """Add LoRA without weights, then give it fake weights. peft moves its layers, which fake tensors do not allow."""
    add_lora(llm, lora, empty=True)
    with fake:
        for name, module in llm.named_modules():
            if ".lora_" in name and isinstance(module, nn.Linear):
                module.weight = nn.Parameter(torch.zeros(module.weight.shape))


def _trainable(objective: Objective) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            part = name.removeprefix("model.").partition(".")[0]
            part = "lora" if ".lora_" in name else part
            counts[part] = counts.get(part, 0) + weight.numel()
    return counts


def _measurable(stage: StageRecipe) -> StageRecipe:
    """Return the stage with the alignment loss in place of CTC, whose shapes depend on the content of tensors."""
    if not stage.ctc_weight:
        return replace(stage, compile=False)
    return replace(stage, compile=False, ctc_weight=0.0, alignment_weight=stage.alignment_weight or stage.ctc_weight)
