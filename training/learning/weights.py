"""Reading and writing of weights: LoRA is merged, tied weights are written once, saves are averaged.

The weights of an `Objective` are those of the model, under `model.`, and of the heads for losses on the encoder. The
heads belong to the state of a run, not to a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.files import share
from bestow_edge.training.recipe.stages import LoraRecipe

MODEL, HEADS = "model.", ("ctc_head.", "count_head.")
State = dict[str, Tensor]


def add_lora(llm: nn.Module, lora: LoraRecipe, *, empty: bool = False) -> None:
    """Put peft's low-rank layers around the LLM's linear layers, in place; `empty` leaves them without content.

    Raises:
        ConfigError: if no layer has a name of `targets`.
    """
    from peft import LoraConfig, inject_adapter_in_model

    alpha: Any = lora.alpha  # Any: peft declares int, but takes any number
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets))
    try:
        inject_adapter_in_model(config, llm, low_cpu_mem_usage=empty)
    except ValueError as error:
        raise ConfigError(f"lora: targets {', '.join(lora.targets)}: {error}") from error


def merged(state: Mapping[str, Tensor], lora: LoraRecipe | None) -> State:
    """Return the weights under their names without LoRA, with its changes added."""
    if lora is None:
        return dict(state)
    plain: State = {}
    for name, weight in state.items():
        if ".base_layer." in name:
            stem, _, kind = name.partition(".base_layer.")
            if kind == "weight":
                down, up = (state[f"{stem}.lora_{letter}.default.weight"].float() for letter in "AB")
                change = up @ down * (lora.alpha / lora.rank)
                plain[f"{stem}.weight"] = (weight.float() + change).to(weight.dtype)
            else:
                plain[f"{stem}.{kind}"] = weight
        elif ".lora_" not in name:
            plain[name] = weight
    return plain


def unshared(state: Mapping[str, Tensor]) -> State:
    """Return the weights with tied ones only once, as safetensors requires."""
    seen: set[tuple[int, torch.Size]] = set()
    single: State = {}
    for name, weight in state.items():
        key = (weight.data_ptr(), weight.shape)
        if weight.numel() and key in seen:
            continue
        seen.add(key)
        single[name] = weight.detach().contiguous()
    return single


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights to a safetensors file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(unshared(state), str(partial), metadata={"format": "pt"})
        share(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module. Tied weights may be given once.

    Raises:
        CheckpointError: if weights are missing, surplus or of another shape.
    """
    own = module.state_dict()
    try:
        result = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: weights do not load: {str(error).strip():.300}") from error
    given = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name in result.missing_keys if own[name].data_ptr() not in given]
    if missing or result.unexpected_keys:
        names = f"missing {', '.join(missing) or 'none'}; surplus {', '.join(result.unexpected_keys) or 'none'}"
        raise CheckpointError(f"{where}: weights do not fit: {names:.300}")


def read_state(path: Path) -> State:
    """Read a safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: weights do not load: {error}") from error


def split(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """Return the weights of the model, without the prefix, and those of the heads."""
    model = {name.removeprefix(MODEL): weight for name, weight in state.items() if name.startswith(MODEL)}
    return model, {name: weight for name, weight in state.items() if name.startswith(HEADS)}


def mean_state(paths: Sequence[Path]) -> State:
    """Return the mean of the weights in several files. Tensors that are not floats come from the last file."""
    total: dict[str, Tensor] = {}
    last: State = {}
    for path in paths:
        last = read_state(path)
        for name, weight in last.items():
            if weight.is_floating_point():
                total[name] = total[name] + weight.double() if name in total else weight.double()
    means = {name: (weight / len(paths)).to(last[name].dtype) for name, weight in total.items()}
    return last | means


def flush_directory(directory: Path) -> None:
    """Write every file of a directory through to the disk, so that a power failure after its renaming is harmless."""
    for path in [*directory.rglob("*"), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
