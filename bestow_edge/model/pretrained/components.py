"""Pretrained parts as they were read, whatever their source, and the empty modules that take their weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from bestow_edge.core.config import ChatTemplate, EncoderConfig, FeatureConfig, ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.networks import check_fields
from bestow_edge.model import base
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.pretrained.configs import refused

_UNKEPT = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}  # not the model's shape


@dataclass(frozen=True, slots=True)
class EncoderPart:
    """A speech encoder with what belongs to it."""

    module: PreTrainedModel
    """Weights in their own dtype; buffers that are computed from the config may be on no device."""
    config: EncoderConfig
    """Its kind and how it streams."""
    features: FeatureConfig
    """The front-end it was trained with."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Weights of the whole model's other parts, which are not taken: how many of each."""


@dataclass(frozen=True, slots=True)
class LlmPart:
    """A decoder-only LLM with its tokenizer."""

    module: PreTrainedModel
    """Weights in their own dtype; its config names the end tokens, the one that ends a chat turn first."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    chat: ChatTemplate
    """Texts around a user turn."""
    has_chat_template: bool
    """The tokenizer brought a chat template; else the prompt is plain text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeRequest:
    """A whole pretrained model to make a checkpoint of. Options of None take the default of the model's kind."""

    source: str
    """Folder or Hub id."""
    llm: str | None = None
    """SALM: folder or Hub id with config and tokenizer of its LLM; None for the one that it names."""
    pairs: tuple[str, ...] | None = None
    """SALM: language pairs it was trained for."""
    instruction: str | None = None
    """SALM: instruction before the speech, see `ChatTemplate.instruction`."""
    policy: PolicyConfig | None = None
    """Default read/write policy."""
    padding_s: float | None = None
    """Whisper: seconds of silence behind the audio of each encoding."""
    offline: bool = False
    """Use files and the Hub's cache alone."""
    every_name: bool = False
    """An error about weights names all of them."""


@dataclass(frozen=True, slots=True)
class WholePart:
    """A whole pretrained model as it was read."""

    model: SpeechModel
    """Weights in their own dtype."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    notes: tuple[str, ...] = ()
    """What was found, merged and left out, in words for people."""


def refuse_options(request: WholeRequest, kind: str, *names: str) -> None:
    """Refuse options that do not suit a kind of model.

    Raises:
        ConfigError: if one is given.
    """
    if given := [name for name in names if getattr(request, name) is not None]:
        options = ", ".join(f"--{name.removesuffix('_s')}" for name in given)
        raise ConfigError(f"{request.source} is a {kind}: leave out {options}")


def build_encoder(fields: dict[str, Any], where: str) -> PreTrainedModel:
    """Build an encoder whose weights are on no device yet.

    Raises:
        ConfigError: if transformers refuses the config.
    """
    check_fields(fields, where)
    with refused(f"{where}: transformers refuses its sizes"), torch.device("meta"):
        return base.build_encoder(AutoConfig.for_model(**fields))


def empty_model(config: ModelConfig, where: str) -> SpeechModel:
    """Build a model whose weights are on no device yet.

    Raises:
        ConfigError: if transformers refuses a config of it.
    """
    with refused(f"{where}: transformers refuses its sizes"), torch.device("meta"):
        return SpeechModel.from_config(config)


def plain_config(config: PretrainedConfig) -> dict[str, Any]:
    """Return a transformers config as a checkpoint keeps it: every field that describes the model."""
    return {name: value for name, value in config.to_dict().items() if name not in _UNKEPT} | {
        "model_type": config.model_type
    }
