"""Reads a `.nemo` file: a tar archive with a YAML config and a PyTorch state dict. Nothing in it is executed.

Two members are read by their exact names, none is extracted to a path that the archive chooses. The config is plain
YAML, the weights are unpickled with torch's `weights_only`, which makes tensors and containers alone.
"""

from __future__ import annotations

import pickle
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import torch
import yaml
from torch import Tensor

from bestow_edge.core.errors import CheckpointError

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MAX_CONFIG_BYTES = 50_000_000  # vocabularies are part of it


@dataclass(frozen=True, slots=True)
class NemoFile:
    """Content of a `.nemo` file."""

    config: dict[str, Any]  # Any: decoded YAML
    weights: dict[str, Tensor]


def read_nemo(path: Path) -> NemoFile:
    """Read a `.nemo` file, plain or compressed.

    Raises:
        CheckpointError: if it is not such an archive, lacks a member, is damaged or holds more than plain data.
    """
    with path.open("rb") as file:
        compressed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))  # gzip, bzip2, xz
    try:
        with tarfile.open(path, "r:*" if compressed else "r:") as archive:
            members = _members(archive, path)
            return NemoFile(_config(archive, members, path), _weights(archive, members, path, compressed=compressed))
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise CheckpointError(f"{path}: not a .nemo file, or a damaged one ({error}); copy it again") from error


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Return the regular files among the two members, by name."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        name = member.name.removeprefix("./")
        if name not in (CONFIG, WEIGHTS):
            continue
        if not member.isreg() or name in found:
            raise CheckpointError(f"{path}: {name} is there twice or is no plain file; NeMo writes it otherwise")
        found[name] = member
    if missing := {CONFIG, WEIGHTS} - found.keys():
        raise CheckpointError(f"{path}: holds no {' and no '.join(sorted(missing))}; NeMo's save_to writes both")
    return found


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise CheckpointError(f"{path}: {member.name} is no plain file")
    return file


def _config(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: Path) -> dict[str, Any]:
    if members[CONFIG].size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path}: {CONFIG} has {members[CONFIG].size} bytes, expected at most {MAX_CONFIG_BYTES}")
    try:
        config = yaml.safe_load(_open(archive, members[CONFIG], path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {CONFIG} is not plain YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: {CONFIG} holds {type(config).__name__}, expected a mapping")
    return config


def _weights(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: Path, *, compressed: bool
) -> dict[str, Tensor]:
    file = _open(archive, members[WEIGHTS], path)
    try:
        if compressed:  # seeking in it would be slow
            with TemporaryFile() as plain:
                shutil.copyfileobj(file, plain)
                plain.seek(0)
                weights = torch.load(plain, map_location="cpu", weights_only=True)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {WEIGHTS} holds more than tensors: it could run code") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {WEIGHTS} is damaged ({str(error).splitlines()[0]:.200})") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{path}: {WEIGHTS} is no state dict of tensors")
    return weights
