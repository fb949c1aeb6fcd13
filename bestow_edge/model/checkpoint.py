"""A checkpoint directory: `config.json`, `model.safetensors` and the tokenizer's files. Nothing is pickled.

It knows the files and their checks, not how weights came about. Writing goes to a sibling directory that is renamed
when it is complete.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from bestow_edge.config import ModelConfig, read_json
from bestow_edge.errors import CheckpointError
from bestow_edge.files import atomic_directory
from bestow_edge.model.bestow import BestowModel
from bestow_edge.prompts import parse_pair

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "bestow-edge-checkpoint"
FORMAT_VERSION = 1


def save_checkpoint(model: BestowModel, tokenizer_json: str, directory: Path) -> None:
    """Write a checkpoint, replacing one that is there.

    Args:
        model: the model; its weights are stored in their own dtype.
        tokenizer_json: content of the `tokenizers` file.
        directory: where it goes; it appears complete or not at all.
    """
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model.config.to_dict()}
    with atomic_directory(directory, replace=True) as partial:
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
        (partial / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
        save_model(model, str(partial / WEIGHTS_FILE))


def load_config(directory: Path) -> ModelConfig:
    """Read the model config of a checkpoint.

    Raises:
        CheckpointError: it is not a checkpoint directory of this format version.
        ConfigError: its config has unknown or wrong fields.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: not a checkpoint, {name} is missing; make one with bestow-edge train")
    document = read_json(directory / CONFIG_FILE)
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        got = f"{document.get('format')} {document.get('format_version')}"
        raise CheckpointError(f"{directory}: config.json is {got}, expected {FORMAT} {FORMAT_VERSION}")
    config = ModelConfig.from_dict(document.get("model", {}))
    for pair in config.pairs:
        parse_pair(pair)
    return config


def load_checkpoint(directory: Path) -> BestowModel:
    """Read a checkpoint into a model in evaluation mode.

    Raises:
        CheckpointError: files are missing, damaged or do not fit the config.
        ConfigError: the config has unknown or wrong fields.
    """
    model = BestowModel.from_config(load_config(directory))
    load_weights(model, directory)
    return model.eval()


def load_weights(model: BestowModel, directory: Path) -> None:
    """Read the weights of a checkpoint into a model of the same config.

    Raises:
        CheckpointError: the file is damaged, or weights are missing, surplus or of another shape.
    """
    path = directory / WEIGHTS_FILE
    try:
        load_model(model, str(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: weights do not load: {str(error).strip():.300}") from error
