"""Recipes: the YAML file of a training run. No torch.

`load_recipe` reads a file strictly into the dataclasses below: an unknown or misspelt key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bestow_edge.core.checkpoint import load_config
from bestow_edge.core.config import (
    ConnectorConfig,
    EncoderConfig,
    FeatureConfig,
    ModelConfig,
    PolicyConfig,
    SegmentConfig,
)
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.networks import check_fields
from bestow_edge.core.prompts import parse_pair
from bestow_edge.training.recipe.data import DataRecipe, check_pairs, check_stages
from bestow_edge.training.recipe.stages import StageRecipe
from bestow_edge.training.recipe.yaml_text import read_yaml

MOST_EXTENDS = 8
SMALLEST_VOCAB = 261  # five special tokens and every byte


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecipe:
    """The model to train from scratch; vocabulary and chat format come from the tokenizer."""

    encoder: EncoderConfig
    """The encoder; fields of its transformers config that are left out take transformers' defaults."""
    llm: dict[str, Any]
    """transformers config of the LLM; fields left out take its defaults."""
    connector: ConnectorConfig
    """Where speech enters the LLM."""
    pairs: tuple[str, ...]
    """Language pairs; `en-en` is transcription."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """The front-end."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Default policy; its `l` is the one trained with."""
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    """When a session begins a new segment."""
    vocab_size: int = 512
    """Size of the byte-level BPE tokenizer trained on the transcripts."""
    encoder_from: str = ""
    """Checkpoint directory, relative to the recipe's file, with the initial weights of the encoder. `encoder` must
    repeat its sizes. Empty = random weights."""
    encoder_layers: tuple[int, ...] = ()
    """Numbers of that encoder's layers to take, ascending from 0; empty = all. An encoder with layers removed learns
    far faster than a random one."""

    def __post_init__(self) -> None:
        """Check vocabulary, sizes, attention heads and layers."""
        if self.vocab_size < SMALLEST_VOCAB:
            raise ConfigError(
                f"model: vocab_size {self.vocab_size}; special tokens and 256 bytes need at least {SMALLEST_VOCAB}"
            )
        for part, config in (("encoder", self.encoder.network), ("llm", self.llm)):
            check_fields(config, f"model.{part}")
            width, heads = config.get("hidden_size"), config.get("num_attention_heads")
            if isinstance(width, int) and isinstance(heads, int) and "head_dim" not in config and width % heads:
                raise ConfigError(f"model.{part}: hidden_size {width} does not fit {heads} attention heads")
        self._check_encoder_layers()

    def _check_encoder_layers(self) -> None:
        taken = self.encoder_layers
        if not taken:
            return
        if not self.encoder_from:
            raise ConfigError("model: encoder_layers are layers of the encoder that encoder_from names; set both")
        if min(taken) < 0 or list(taken) != sorted(set(taken)):
            raise ConfigError(f"model: encoder_layers {list(taken)}; expected numbers from 0, ascending, none twice")
        if len(taken) != (layers := self.encoder.network.get("num_hidden_layers", len(taken))):
            raise ConfigError(f"model: {len(taken)} encoder_layers, but encoder has num_hidden_layers {layers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HypothesesRecipe:
    """Hypotheses of some dev utterances, decoded at each evaluation and written to `samples.jsonl`.

    They are written under wait-k, offline by connectors that cannot follow it.
    """

    utterances: int = 8
    """Number of dev utterances; 0 = none."""
    k: int = 0
    """K; 0 = that of the model's default policy. L is always the model's."""
    lookahead: int | None = None
    """Look-ahead of the encoder, steps; left out = the model's default."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.utterances < 0 or self.k < 0:
            raise ConfigError(f"hypotheses: utterances and k must be at least 0, got {self.utterances} and {self.k}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A training run."""

    model: ModelRecipe | None = None
    """The model to train from random weights. Together with `init` it may repeat the checkpoint's values, which are
    compared; then `--dry-run` works without the checkpoint."""
    data: DataRecipe
    """The training data."""
    stages: tuple[StageRecipe, ...]
    """The stages in their order."""
    init: str = ""
    """Checkpoint directory to start from, relative to the recipe's file, such as `bestow-edge init` makes."""
    pairs: tuple[str, ...] = ()
    """Language pairs to train in place of the checkpoint's. Only with `init` and without `model`."""
    seed: int = 0
    """Seed of weights, data and masks."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products. Weights stay fp32."""
    labels: int = 0
    """Size of a separate vocabulary for the losses on the encoder's output, trained on the transcripts. 0 = the tokens
    of the LLM. A few hundred pieces of words are learned far faster than thousands of words."""
    label_smoothing: float = 0.0
    """Label smoothing of the next-token loss."""
    save_steps: int = 250
    """Steps between training checkpoints, from which a run can be resumed."""
    eval_steps: int = 0
    """Steps between evaluations on the dev set; 0 = `save_steps`."""
    log_steps: int = 25
    """Steps between records of the training loss."""
    hypotheses: HypothesesRecipe = field(default_factory=HypothesesRecipe)
    """Texts written and scored at each evaluation."""
    report_to: tuple[Literal["tensorboard"], ...] = ()
    """Additional reports of transformers' Trainer; `tensorboard` writes to `tensorboard/` in the output."""
    workers: int = 1
    """Data loader processes for each training process."""

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        if not self.stages:
            raise ConfigError("recipe: stages is empty; give at least one")
        if self.model is None and not self.init:
            raise ConfigError("recipe: model is missing; give model (random weights) or init (a checkpoint directory)")
        if self.pairs and (self.model is not None or not self.init):
            raise ConfigError("recipe: pairs goes with init alone; model has its own pairs")
        for pair in (*self.pairs, *(self.model.pairs if self.model else ())):
            parse_pair(pair)
        names = [stage.name for stage in self.stages]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"recipe: stages named alike: {', '.join(sorted(twice))}; each has its own directory")
        if self.save_steps < 1 or self.log_steps < 1 or self.eval_steps < 0 or self.workers < 1:
            raise ConfigError("recipe: save_steps, log_steps and workers must be at least 1, eval_steps at least 0")
        if self.labels and self.labels < SMALLEST_VOCAB:
            raise ConfigError(f"recipe: labels {self.labels}; 256 bytes and special tokens need {SMALLEST_VOCAB}, or 0")
        self._check_stages()
        if self.model is not None:
            check_lookaheads(self, self.model.encoder)
            check_pairs(self.data, self.model.pairs)
        check_stages(self.data, self.stages)

    def _check_stages(self) -> None:
        for stage in self.stages:
            where, saves = f"stage {stage.name}", -(-stage.steps // self.save_steps)
            if stage.average > 1 and saves < stage.average:
                raise ConfigError(f"{where}: average {stage.average} needs as many saves; lower save_steps")
            if stage.best in {"wer", "bleu"} and not self.hypotheses.utterances:
                raise ConfigError(f"{where}: best: {stage.best} needs hypotheses.utterances above 0")


def check_lookaheads(recipe: Recipe, encoder: EncoderConfig) -> None:
    """Check that all look-aheads of a recipe are look-aheads of the model.

    Raises:
        ConfigError: if one is not.
    """
    wanted = {stage.name: set(stage.lookaheads) for stage in recipe.stages}
    if recipe.hypotheses.lookahead is not None:
        wanted["hypotheses"] = {recipe.hypotheses.lookahead}
    for name, lookaheads in wanted.items():
        if unknown := lookaheads - set(encoder.right_contexts):
            raise ConfigError(f"stage {name}: look-aheads {unknown} are not in those of model.encoder")


def pairs_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the language pairs of a recipe, or those of its checkpoint.

    Raises:
        CheckpointError: if the recipe has no pairs and `init` is not a checkpoint.
    """
    own = recipe.pairs or (recipe.model.pairs if recipe.model else ())
    return own or load_config(Path(recipe.init)).pairs


def load_recipe(path: Path, *, init: Path | None = None) -> Recipe:
    """Read a recipe, and make its `init` and `encoder_from` relative to the current directory.

    Args:
        path: the YAML file.
        init: checkpoint directory that replaces the recipe's.

    Raises:
        ConfigError: if the file is missing, not YAML, or has unknown, missing or wrong fields.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; examples/digits.yaml is one")
    values = read_whole(path)
    if init is not None and isinstance(values, dict):
        values = values | {"init": str(init.absolute())}
    recipe = decode(Recipe, values, path.name)
    if recipe.model is not None and recipe.model.encoder_from:
        encoder_from = str(path.parent / recipe.model.encoder_from)
        recipe = replace(recipe, model=replace(recipe.model, encoder_from=encoder_from))
    return replace(recipe, init=str(path.parent / recipe.init)) if recipe.init else recipe


def read_whole(path: Path, depth: int = 0) -> object:
    """Return the values of a recipe's file with those of the file that it `extends`, which its own replace.

    Mappings are joined field by field. Lists are replaced, and so is a connector or an encoder of another kind.

    Raises:
        ConfigError: if a file is missing, not YAML, or extends itself.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or "extends" not in values:
        return values
    own = dict(values)
    if depth == MOST_EXTENDS:
        raise ConfigError(f"{path.name}: extends goes on for more than {MOST_EXTENDS} files; does one extend itself?")
    base = path.parent / str(own.pop("extends"))
    if not base.is_file():
        raise ConfigError(f"{path.name}: extends {base}, and there is no such file")
    return _joined(read_whole(base, depth + 1), own)


def _joined(below: object, above: object) -> object:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "kind" in above and above["kind"] != below.get("kind"):
        return above
    return below | {name: _joined(below.get(name), value) for name, value in above.items()}


def model_config(recipe: ModelRecipe, *, network: dict[str, Any], llm: dict[str, Any], **chat: Any) -> ModelConfig:
    """Return the `ModelConfig` of a recipe with the given transformers configs."""
    return ModelConfig(
        encoder=replace(recipe.encoder, network=network),
        connector=recipe.connector,
        llm=llm,
        features=recipe.features,
        policy=recipe.policy,
        segments=recipe.segments,
        pairs=recipe.pairs,
        **chat,
    )
