"""Checks that a recipe fits its kind of connector, before anything is computed. No torch."""

from __future__ import annotations

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import WaitK
from bestow_edge.core.request import check_follows, default_policy
from bestow_edge.core.specs.prepend import PrependConfig
from bestow_edge.runtime.stream.segments import limits
from bestow_edge.training.recipe.recipe import Recipe
from bestow_edge.training.recipe.stages import ENCODER_LOSSES

MASKED = ("streaming", "pauses")  # fields of a stage that need a wait-k mask over speech
OWN_LOSSES = ("attention_weight", "reading_weight")


def check_fit(recipe: Recipe, config: ModelConfig, *, prompt_tokens: int, labels: int) -> None:
    """Check what the stages ask of the connector, and that sessions and utterances have room in the LLM's context.

    Args:
        recipe: the recipe.
        config: of its model.
        prompt_tokens: tokens of the longest prompt.
        labels: size of the vocabulary of the losses on the encoder's output.

    Raises:
        ConfigError: names the first field that does not fit.
    """
    CONNECTORS[config.connector.kind].speech(config)
    check_follows(policy := default_policy(None, config.policy), config)
    if not CONNECTORS[config.connector.kind].follows(WaitK(1, 1)):
        _check_no_mask(recipe, config)
    _check_own_losses(recipe, config)
    compressor = config.connector.compressor if isinstance(config.connector, PrependConfig) else None
    for stage in recipe.stages if compressor is None else ():
        losses = [name for name in ENCODER_LOSSES if getattr(stage, name)]
        if losses and "encoder" not in stage.trained:
            got = f"{', '.join(losses)} teach the encoder, which is frozen; see trains"
            raise ConfigError(f"stage {stage.name}: {got}")
    if compressor is not None and compressor.labels < labels:
        got = f"labels {compressor.labels}, but the vocabulary of labels has {labels}"
        raise ConfigError(f"connector.compressor: {got}; make the head larger, or set `labels` of the recipe to less")
    if config.connector.llm_positions(1):
        most = config.max_text_tokens
        limits(config.segments, config, [policy], prompt_tokens=prompt_tokens, max_text_tokens=most)
        _check_room(recipe, config, prompt_tokens)


def _check_no_mask(recipe: Recipe, config: ModelConfig) -> None:
    instead = "remove it; `prefixes` teaches the begins of utterances"
    for stage in recipe.stages:
        for name in MASKED:
            if getattr(stage, name):
                got = f"{name} {getattr(stage, name):g}, but connector {config.connector.kind} follows no wait-k"
                raise ConfigError(f"stage {stage.name}: {got}; {instead}")
    if recipe.hypotheses.k:
        got = f"k {recipe.hypotheses.k}, but connector {config.connector.kind} follows no wait-k"
        raise ConfigError(f"hypotheses: {got}; remove it, texts are written offline")


def _check_own_losses(recipe: Recipe, config: ModelConfig) -> None:
    missing = [name for name in OWN_LOSSES if name not in CONNECTORS[config.connector.kind].own_losses]
    for stage in recipe.stages:
        asked = [name for name in missing if getattr(stage, name)]
        asked += ["objective reading"] if stage.objective == "reading" and "reading_weight" in missing else []
        if asked:
            got = f"{asked[0]} trains an adapter, which connector {config.connector.kind} has not"
            raise ConfigError(f"stage {stage.name}: {got}; remove it")


def _check_room(recipe: Recipe, config: ModelConfig, prompt_tokens: int) -> None:
    """Check that the longest recording fits into the LLM's context. Joined ones are checked when they are made."""
    if all(source.join is not None or source.texts for source in recipe.data.sources):
        return
    longest_s = recipe.data.filter.max_s
    steps = config.encoder.num_steps(round(longest_s / config.features.frame_s))
    positions = config.connector.llm_positions(steps)
    if positions + prompt_tokens >= config.max_text_tokens:
        got = f"{longest_s:g} s of speech take {positions} positions and the prompt {prompt_tokens}"
        context = f"the LLM's context has {config.max_text_tokens}"
        raise ConfigError(f"data.filter.max_s: {got}, but {context}; lower it or take an LLM with a longer context")
