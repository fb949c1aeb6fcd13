"""Pretrained parts as they were read, whatever their source, and the empty modules that take their weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from bestow_edge.core.config import ChatTemplate, EncoderConfig, FeatureConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.model import base

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


def build_encoder(fields: dict[str, Any], where: str) -> PreTrainedModel:
    """Build an encoder whose weights are on no device yet.

    Raises:
        ConfigError: if transformers refuses the config.
    """
    try:
        with torch.device("meta"):
            return base.build_encoder(AutoConfig.for_model(**fields))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError(f"{where}: transformers refuses its sizes ({' '.join(str(error).split()):.300})") from error


def plain_config(config: PretrainedConfig) -> dict[str, Any]:
    """Return a transformers config as a checkpoint keeps it: every field that describes the model."""
    return {name: value for name, value in config.to_dict().items() if name not in _UNKEPT} | {
        "model_type": config.model_type
    }
