"""Weights of other checkpoints by name: which are wanted, missing or left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bestow_edge.core.config import read_json
from bestow_edge.core.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHOWN_NAMES = 6  # of each kind in a message that does not name all

OTHER_PARTS = {
    "ctc_decoder", "ctc_head", "decoder", "encoder_decoder_proj", "encoder_projector", "joint", "lm_head",
    "log_softmax", "loss", "preprocessor", "proj_out", "prompt_kernel", "prompt_projector", "spec_augmentation",
    "transf_decoder", "transf_encoder",
}  # fmt: skip
"""Other parts of speech recognisers: first parts of their weights' names."""


def read_tensors(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor in a folder as transformers saves it, by name; reads headers alone.

    Raises:
        CheckpointError: if there are no safetensors files, or they are damaged.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{folder / INDEX}: names a file outside its folder")
        files = [folder / name for name in names]
    else:
        files = [folder / WEIGHTS]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{folder}: {', '.join(missing)} is missing; expected weights as safetensors")
    tensors: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= dict.fromkeys(opened.keys(), file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: not a safetensors file ({error}); copy it again") from error
    return tensors


def load_tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read tensors, by name, from the files that hold them."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name, home in files.items() if home == file}
    return tensors


def part_sizes(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Sort the names of weights that an encoder does not take.

    Returns:
        How many weights each known part has, and the names that belong to no known part.
    """
    counts: Counter[str] = Counter()
    unknown = []
    for name in names:
        part = name.removeprefix("model.").partition(".")[0]
        if part in OTHER_PARTS:
            counts[part] += 1
        else:
            unknown.append(name)
    return dict(counts), unknown


def fill(
    module: nn.Module,
    tensors: dict[str, Tensor],
    where: str,
    *,
    surplus: Collection[str],
    every: bool,
    one_dtype: bool = True,
) -> None:
    """Make tensors the weights of a module whose own are on no device; nothing is copied.

    Args:
        module: built on torch's `meta` device.
        tensors: by the module's names; their dtype stays.
        where: name of the source, for messages.
        surplus: further unknown names.
        every: name all of them in an error.
        one_dtype: make all weights float32 if they differ in dtype, so that the module can run.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape; the message names them.
    """
    wanted = module.state_dict()
    check_names(where, missing=wanted.keys() - tensors.keys(), surplus={*surplus, *(tensors.keys() - wanted.keys())},
                every=every)  # fmt: skip
    odd = [
        f"{name} {tuple(tensors[name].shape)}, config says {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if tensors[name].shape != tensor.shape
    ]
    if odd:
        raise CheckpointError(f"{where}: {listed('weights of another shape', odd, every=every)}")
    module.load_state_dict(tensors, assign=True)
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if one_dtype and len(floats) > 1:
        module.to(torch.float32)


def check_names(where: str, *, missing: Collection[str], surplus: Collection[str], every: bool) -> None:
    """Refuse missing and unknown weights.

    Raises:
        CheckpointError: if there are any; the message names the first ones, or with `every` all.
    """
    kinds = (("missing weights", missing), ("unknown weights", surplus))
    if problems := [listed(kind, names, every=every) for kind, names in kinds if names]:
        raise CheckpointError(f"{where}: {'; '.join(problems)}")


def listed(kind: str, names: Collection[str], *, every: bool) -> str:
    """Return `12 missing weights: a, b, c and 9 more`."""
    ordered = sorted(names)
    shown = ordered if every else ordered[:SHOWN_NAMES]
    more = f" and {len(ordered) - len(shown)} more (--all-names)" if len(shown) < len(ordered) else ""
    return f"{len(ordered)} {kind}: {', '.join(shown)}{more}"
