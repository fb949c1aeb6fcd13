"""A checkpoint directory: `config.json`, `model.safetensors` and the tokenizer's files. Nothing is pickled.

It knows the files and their checks, not how weights came about. Writing goes to a sibling directory that is renamed
when it is complete.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from bestow_edge.checkpoint import CONFIG_FILE, FORMAT, FORMAT_VERSION, TOKENIZER_FILE, WEIGHTS_FILE, load_config
from bestow_edge.errors import CheckpointError
from bestow_edge.files import atomic_directory
from bestow_edge.model.bestow import BestowModel


def save_checkpoint(model: BestowModel, tokenizer_json: str, directory: Path, *, replace: bool = True) -> None:
    """Write a checkpoint.

    Args:
        model: the model; its weights are stored in their own dtype.
        tokenizer_json: content of the `tokenizers` file.
        directory: where it goes; it appears complete or not at all.
        replace: a directory that is there may be replaced.

    Raises:
        ConfigError: `directory` exists and may not be replaced.
    """
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model.config.to_dict()}
    with atomic_directory(directory, replace=replace) as partial:
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
        (partial / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
        save_model(model, str(partial / WEIGHTS_FILE))
        (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private


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
