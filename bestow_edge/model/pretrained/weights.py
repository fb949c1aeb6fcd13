"""Weights of other checkpoints, which may be damaged or hostile: which are wanted, missing, left over or no weights."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bestow_edge.core.errors import CheckpointError
from bestow_edge.core.json_text import read_json
from bestow_edge.model.pretrained.configs import refused

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"
FLOATS = ("float32", "bfloat16", "float16")
"""Dtypes of weights, as torch names them."""
_SHORT = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names
SHOWN_NAMES = 6  # of each kind in a message that does not name all

OTHER_PARTS = {
    "ctc_decoder", "ctc_head", "decoder", "encoder_decoder_proj", "encoder_projector", "joint", "lm_head",
    "log_softmax", "loss", "preprocessor", "proj_out", "prompt_kernel", "prompt_projector", "spec_augmentation",
    "transf_decoder", "transf_encoder",
}  # fmt: skip
"""Other parts of speech recognisers: first parts of their weights' names."""


def has_weights(folder: Path, name: str = WEIGHTS) -> bool:
    """Return whether a folder has weights in a file of this name, or an index of it."""
    return (folder / name).is_file() or (folder / f"{name}.index.json").is_file()


def weight_files(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """Return the files that hold the weights of a folder: the whole one, or those that its index names.

    Args:
        folder: as transformers saves it.
        name: of the whole file; the index is called after it.

    Raises:
        CheckpointError: if one is missing, or the index is damaged or names files elsewhere.
    """
    whole, index = folder / name, folder / f"{name}.index.json"
    if index.is_file():
        listed_files = read_json(index).get("weight_map")
        if not isinstance(listed_files, dict) or not all(isinstance(file, str) for file in listed_files.values()):
            raise CheckpointError(f"{index}: weight_map is no table of file names; copy it again")
        names = sorted(set(listed_files.values()))
        if any(Path(file).name != file for file in names):
            raise CheckpointError(f"{index}: names a file outside its folder; all files must be beside it")
    files = [whole] if whole.is_file() or not index.is_file() else [folder / file for file in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{folder}: {', '.join(missing)} is missing; expected weights as safetensors")
    return files


def read_tensors(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor in a folder as transformers saves it, by name; reads headers alone.

    Raises:
        CheckpointError: if there are no safetensors files, or they are damaged.
    """
    tensors: dict[str, Path] = {}
    for file in weight_files(folder):
        with _opened(file) as opened:
            names = set(opened.keys())
        _check_once(tensors, names, file)
        tensors |= dict.fromkeys(names, file)
    return tensors


def stored_dtypes(files: Sequence[Path]) -> dict[str, str]:
    """Return the dtypes of all tensors in files, pickled ones too, by name; safetensors' own names for odd ones.

    Raises:
        CheckpointError: if a file is damaged.
    """
    found: dict[str, str] = {}
    for file in files:
        if file.suffix == Path(PICKLE).suffix:
            weights = read_pickle(file, file.stat().st_size, str(file))
            dtypes = {name: _dtype_name(tensor) for name, tensor in weights.items()}
        else:
            with _opened(file) as opened:
                short = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
            dtypes = {name: _SHORT.get(dtype, dtype) for name, dtype in short.items()}
        _check_once(found, dtypes, file)
        found |= dtypes
    return found


def load_tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read tensors, by name, from the files that hold them.

    Raises:
        CheckpointError: if a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        with _opened(file) as opened:
            tensors |= {name: opened.get_tensor(name) for name, home in files.items() if home == file}
    return tensors


def _check_once(found: Collection[str], names: Collection[str], file: Path) -> None:
    if twice := set(found) & set(names):
        raise CheckpointError(f"{file}: {min(twice)} is in another file too; expected each weight once")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:  # Any: safetensors has no types for it
    """Open a file; safetensors checks its header: sizes, no gaps, nothing beyond the end."""
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); copy it again") from error


def read_pickle(file: Path | IO[bytes], size: int, where: str) -> dict[str, Tensor]:
    """Read a state dict that torch.save wrote. Nothing in it is run; a file on disk is mapped, not copied.

    Args:
        file: path, or an open file.
        size: its bytes.
        where: name of the source, for messages.

    Raises:
        CheckpointError: if it is damaged, compressed or holds more than tensors by name.
    """
    with refused(f"{where}: damaged; copy it again", CheckpointError, zipfile.BadZipFile):
        packed = zipfile.is_zipfile(file)
        if packed:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:
                raise CheckpointError(f"{where}: {unpacked} bytes in a file of {size}; expected weights as they are")
        if not isinstance(file, Path):
            file.seek(0)
        try:
            weights: Any = torch.load(
                file, map_location="cpu", weights_only=True, mmap=packed and isinstance(file, Path)
            )  # Any: whatever was pickled
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{where} holds more than tensors: it could run code") from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(f"{where}: no state dict of tensors; expected the weights alone")
    return weights


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
        CheckpointError: if weights are missing, left over, of another shape or dtype, or not finite; the message
            names them.
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
    counters = {name for name, tensor in wanted.items() if not tensor.is_floating_point()}
    check_values({name: tensors[name] for name in wanted}, where, integers=counters, every=every)
    module.load_state_dict(tensors, assign=True)
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if one_dtype and len(floats) > 1:
        module.to(torch.float32)


def check_values(tensors: Mapping[str, Tensor], where: str, *, every: bool, integers: Collection[str] = ()) -> None:
    """Refuse tensors that are no weights: other dtypes, fewer numbers than the shape says, NaN or infinite ones.

    Args:
        tensors: by name.
        where: name of the source, for messages.
        every: name all of them in an error.
        integers: names of those that are whole numbers, such as counters.

    Raises:
        CheckpointError: if there are any; the message names them.
    """
    check_dtypes({name: _dtype_name(tensor) for name, tensor in tensors.items()}, where, integers=integers, every=every)
    views = [
        name
        for name, tensor in tensors.items()
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
    ]
    if views:
        raise CheckpointError(
            f"{where}: {listed('weights with fewer numbers than their shape has', views, every=every)}"
        )
    floats = {name: tensor for name, tensor in tensors.items() if name not in integers and tensor.numel()}
    if broken := [name for name, tensor in floats.items() if not _finite(tensor)]:
        raise CheckpointError(
            f"{where}: {listed('weights with NaN or infinite values', broken, every=every)}; "
            "the checkpoint is damaged, or its training diverged: take another one"
        )


def _finite(tensor: Tensor) -> bool:
    return all(
        math.isfinite(float(value)) for value in torch.aminmax(tensor.detach())
    )  # NaN if one is; no copy is made


def _dtype_name(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if tensor.layout == torch.strided else f"{dtype}, {tensor.layout}"


def check_dtypes(dtypes: Mapping[str, str], where: str, *, every: bool, integers: Collection[str] = ()) -> None:
    """Refuse weights of other dtypes than float32, bfloat16 and float16.

    Args:
        dtypes: by name.
        where: name of the source, for messages.
        every: name all of them in an error.
        integers: names of those that are whole numbers, such as counters.

    Raises:
        CheckpointError: if there are any; the message names them.
    """
    allowed = {True: ("int64", "int32"), False: FLOATS}
    odd = [f"{name} {dtype}" for name, dtype in dtypes.items() if dtype not in allowed[name in integers]]
    if odd:
        got = listed("weights of another dtype", odd, every=every)
        raise CheckpointError(f"{where}: {got}; expected {', '.join(FLOATS)}, give the original checkpoint")


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
