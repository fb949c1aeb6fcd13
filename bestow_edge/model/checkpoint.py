"""A checkpoint directory: `config.json`, `model.safetensors` and the tokenizer's files. Nothing is pickled.

A checkpoint is written to a sibling directory, which is renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from bestow_edge.core.checkpoint import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    load_config,
    weight_shapes,
)
from bestow_edge.core.errors import CheckpointError
from bestow_edge.core.files import atomic_directory, share
from bestow_edge.model.base import SpeechModel

MAPPED_WEIGHTS = 250_000_000  # 1 GB in float32


def save_checkpoint(
    model: SpeechModel, tokenizer_json: str, directory: Path, *, replace: bool = True, notes: Sequence[str] = ()
) -> None:
    """Write a checkpoint.

    Args:
        model: the model; its weights are stored in their own dtype.
        tokenizer_json: content of the `tokenizers` file.
        directory: where it goes; it appears complete or not at all.
        replace: a directory that is there may be replaced.
        notes: on its origin, in words for people.

    Raises:
        ConfigError: if `directory` exists and may not be replaced.
    """
    document: dict[str, object] = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model.config.to_dict()}
    if notes:
        document["notes"] = list(notes)
    with atomic_directory(directory, replace=replace) as partial:
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
        (partial / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
        save_model(model, str(partial / WEIGHTS_FILE))
        share(partial / WEIGHTS_FILE)


def load_checkpoint(directory: Path) -> SpeechModel:
    """Read a checkpoint into a model in evaluation mode.

    Raises:
        CheckpointError: if files are missing, damaged or do not fit the config.
        ConfigError: if the config has unknown or wrong fields.
    """
    model = SpeechModel.from_config(load_config(directory))
    load_weights(model, directory)
    return model.eval()


def load_weights(model: SpeechModel, directory: Path) -> None:
    """Read the weights of a checkpoint into a model of the same config.

    Raises:
        CheckpointError: if the file is damaged, or weights are missing, unexpected or of another shape.
    """
    path = directory / WEIGHTS_FILE
    _check_head(model, path)
    try:
        load_model(model, str(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: weights do not load: {str(error).strip():.300}") from error


def skeleton(directory: Path) -> SpeechModel:
    """Build the model of a checkpoint without its weights, for `load_part`; buffers that no file holds are there.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights' names and shapes do not fit the config.
        ConfigError: if the config has unknown or wrong fields.
    """
    config = load_config(directory)
    with init_empty_weights(include_buffers=False):
        model = SpeechModel.from_config(config)
    model.llm.tie_weights()  # accelerate gives each layer a parameter of its own
    path = directory / WEIGHTS_FILE
    _check_head(model, path)
    have, need = weight_shapes(path), {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    aliases = _aliases(model)
    missing = {name for name in need if not set(have) & aliases.get(name, {name})}
    if twice := [name for name, names in aliases.items() if name in have and len(names & set(have)) > 1]:
        got = f"config.json ties {' and '.join(sorted(aliases[min(twice)]))}, but the file holds both"
        raise CheckpointError(f"{path}: {got}; set tie_word_embeddings to false, or make the checkpoint again")
    surplus = set(have) - set(need)
    wrong = [name for name in set(need) & set(have) if need[name] != have[name]]
    for problem, names in (("missing", missing), ("unknown", surplus), ("of another shape", wrong)):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise CheckpointError(f"{path}: weights do not load: {len(names)} {problem}, such as {first}")
    return model.eval()


def _check_head(model: SpeechModel, path: Path) -> None:
    """Refuse a checkpoint whose compressor has no head.

    Raises:
        CheckpointError: if it is missing.
    """
    needed = [f"connector.{name}" for name in model.connector.state_dict() if name.startswith("ctc_head.")]
    if needed and not set(needed) <= set(weight_shapes(path)):
        got = f"the head of the CTC compressor ({needed[0]}) is missing"
        raise CheckpointError(f"{path}: {got}; train it (ctc_weight), or remove compressor from config.json")


@contextmanager
def load_part(model: SpeechModel, directory: Path, prefixes: tuple[str, ...], scratch: Path) -> Iterator[None]:
    """Give a `skeleton` some of its weights for a while, as float32.

    Many weights are written to a file and mapped, so that the system may drop them from memory at any time.

    Args:
        model: the skeleton.
        directory: its checkpoint.
        prefixes: of the names of the weights that are wanted.
        scratch: directory for the file.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        with safe_open(str(directory / WEIGHTS_FILE), "pt") as file:
            wanted = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 - no mapping
            floats = _floats({name: file.get_tensor(name) for name in wanted}, scratch)
    except SafetensorError as error:
        raise CheckpointError(f"{directory / WEIGHTS_FILE}: weights do not load: {error!s:.300}") from error
    aliases = _aliases(model)
    floats |= {alias: tensor for name, tensor in floats.items() for alias in aliases.get(name, ())}
    model.load_state_dict(floats, strict=False, assign=True)
    del floats
    model.llm.tie_weights()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
                setattr(module, name, empty)
        model.llm.tie_weights()


def _floats(weights: Mapping[str, Tensor], scratch: Path) -> dict[str, Tensor]:
    """Return weights as float32, many that are not yet in a file that is mapped; integers stay."""
    halves = {name: tensor for name, tensor in weights.items() if tensor.dtype in (torch.bfloat16, torch.float16)}
    number = sum(tensor.numel() for tensor in halves.values())
    if number < MAPPED_WEIGHTS:
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    handle, path = tempfile.mkstemp(dir=scratch)
    os.close(handle)
    mapped = torch.from_file(path, shared=True, size=number, dtype=torch.float32)
    parts = torch.split(mapped, [tensor.numel() for tensor in halves.values()])
    for part, tensor in zip(parts, halves.values(), strict=True):
        part.copy_(tensor.flatten())
    shaped = zip(halves.items(), parts, strict=True)
    return {**weights, **{name: part.view(tensor.shape) for (name, tensor), part in shaped}}


def _aliases(model: SpeechModel) -> dict[str, set[str]]:
    """Return, for each weight, its names: tied ones have several, of which a file holds one."""
    names: dict[int, set[str]] = {}
    parameters = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters:
        names.setdefault(id(parameter), set()).add(name)
    return {name: names[id(parameter)] for name, parameter in parameters}
