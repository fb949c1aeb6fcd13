"""Recipes: one YAML file that says how a model is trained. Knows fields and their checks, not torch.

`load_recipe` reads a file strictly into the dataclasses below: an unknown or misspelt key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bestow_edge.config import (
    AdapterConfig,
    BidirectionalConfig,
    FeatureConfig,
    ModelConfig,
    PolicyConfig,
    SegmentConfig,
    StreamingConfig,
)
from bestow_edge.errors import ConfigError
from bestow_edge.prompts import parse_pair
from bestow_edge.strict import decode
from bestow_edge.training.recipe_data import DataRecipe, check_pairs, check_stages


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
    warmup_steps: int = 100
    """Linear warm-up, steps."""
    pieces: tuple[int, ...] = (1, 1)
    """Most recordings joined into one utterance at the first and at the last step; 1 leaves them as they are."""
    augment: tuple[float, ...] = (1.0, 1.0)
    """Strength of `data.augment` at the first and at the last step: its chances and ranges are multiplied by it."""
    streaming: float = 0.0
    """Share of utterances under a wait-k mask; the others are offline (K * L = infinity)."""
    k_min: int = 3
    """Smallest K drawn, per utterance (paper: 3)."""
    k_max: int = 12
    """Largest K drawn (paper: 12)."""
    pauses: float = 0.0
    """Share of positions whose word has not been heard yet and whose target is a pause (EOS); needs word ends."""
    ctc_weight: float = 0.0
    """Weight of the CTC loss on the encoder's output."""
    alignment_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the word heard there; needs word times."""
    count_weight: float = 0.0
    """Weight of the cross-entropy of each encoder step with the number of words heard so far; needs word times."""
    attention_weight: float = 0.0
    """Weight of the loss that turns each answer token's cross-attention to its own word; needs word times."""
    lookaheads: tuple[int, ...] = (13,)
    """Look-aheads one of which is drawn for each step."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1 or self.batch_s <= 0 or self.learning_rate <= 0:
            raise ConfigError(f"stage {self.name}: steps, batch_s and learning_rate must be more than 0")
        if len(self.pieces) != 2 or len(self.augment) != 2 or min(self.pieces) < 1 or min(self.augment) < 0:
            raise ConfigError(f"stage {self.name}: pieces and augment are two numbers each, first and last step")
        if not 1 <= self.k_min <= self.k_max:
            raise ConfigError(f"stage {self.name}: need 1 <= k_min <= k_max, got {self.k_min} and {self.k_max}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecipe:
    """The model to train from scratch; vocabulary and chat format come from the tokenizer."""

    encoder: dict[str, Any]
    """transformers config of the encoder; fields left out take its defaults."""
    llm: dict[str, Any]
    """transformers config of the LLM; fields left out take its defaults."""
    adapter: AdapterConfig
    """The adapter."""
    pairs: tuple[str, ...]
    """Language pairs; `en-en` is transcription."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """The front-end."""
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    """Attention contexts of a cache-aware encoder."""
    bidirectional: BidirectionalConfig | None = None
    """How a bidirectional encoder streams; None means the defaults."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Default policy; its `l` is the one trained with."""
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    """When a session begins a new segment."""
    vocab_size: int = 512
    """Size of the byte-level BPE tokenizer trained on the transcripts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole training run."""

    model: ModelRecipe
    """What is trained."""
    data: DataRecipe
    """On what."""
    stages: tuple[StageRecipe, ...]
    """In which order."""
    seed: int = 0
    """Seed of weights, data and masks."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of matrix products; weights stay fp32."""
    label_smoothing: float = 0.0
    """Label smoothing of the next-token loss."""
    save_steps: int = 250
    """Steps between training checkpoints, from which a run resumes."""

    def __post_init__(self) -> None:
        """Check what the parts need of each other."""
        if not self.stages:
            raise ConfigError("recipe: stages is empty; give at least one")
        for pair in self.model.pairs:
            parse_pair(pair)
        for stage in self.stages:
            if unknown := set(stage.lookaheads) - set(self.model.streaming.lookaheads):
                raise ConfigError(f"stage {stage.name}: look-aheads {unknown} are not in model.streaming.lookaheads")
        check_pairs(self.data, self.model.pairs)
        check_stages(self.data, self.stages)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: the file is missing, not YAML, or has unknown, missing or wrong fields.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; examples/digits.yaml is one")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    return decode(Recipe, values, path.name)


def model_config(recipe: ModelRecipe, *, encoder: dict[str, Any], llm: dict[str, Any], **chat: Any) -> ModelConfig:
    """Put a complete `ModelConfig` together from the recipe and the complete transformers configs."""
    return ModelConfig(
        encoder=encoder,
        llm=llm,
        adapter=recipe.adapter,
        features=recipe.features,
        streaming=recipe.streaming,
        bidirectional=recipe.bidirectional,
        policy=recipe.policy,
        segments=recipe.segments,
        pairs=recipe.pairs,
        **chat,
    )
