"""Reads a `.nemo` file: a tar archive with a YAML config and a PyTorch state dict. Nothing in it is executed.

Two members are read by their exact names, none is extracted to a path that the archive chooses. The config is plain
YAML, the weights are unpickled with torch's `weights_only`, which makes tensors and containers alone.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import yaml
from torch import Tensor

from bestow_edge.core.errors import CheckpointError
from bestow_edge.core.networks import check_fields
from bestow_edge.model.pretrained.configs import refused
from bestow_edge.model.pretrained.weights import read_pickle

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MAX_CONFIG_BYTES = 50_000_000  # vocabularies are part of it
DEEPEST = 30  # lists and mappings within each other
MAX_RATIO, MAX_EXTRA = 20, 10_000_000  # bytes that a compressed file may unpack to, over its own; weights hardly shrink
_COMPRESSIONS: tuple[tuple[bytes, Any], ...] = (  # Any: their open functions share no type
    (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open),
)  # fmt: skip


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
    damaged = f"{path}: not a .nemo file, or a damaged one; copy it again"
    with (
        refused(damaged, CheckpointError, tarfile.TarError, zlib.error, lzma.LZMAError),
        _unpacked(path) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        members = _members(archive, path)
        return NemoFile(_config(archive, members, path), _weights(archive, members, path))


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; a compressed one is unpacked to disk first, as far as weights can be compressed."""
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack = next((unpack for magic, unpack in _COMPRESSIONS if head.startswith(magic)), None)
        if unpack is None:
            yield file
            return
        most = MAX_RATIO * path.stat().st_size + MAX_EXTRA
        with unpack(file) as packed, TemporaryFile() as plain:
            while block := packed.read(1 << 20):
                plain.write(block)
                if plain.tell() > most:
                    raise CheckpointError(f"{path}: it unpacks to more than {most} bytes, which weights do not")
            plain.seek(0)
            yield plain


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Return the regular files among the two members, by name."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        name = member.name.removeprefix("./")
        if name not in (CONFIG, WEIGHTS):
            continue
        if not member.isreg() or member.issparse() or name in found:
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
    with refused(f"{path}: {CONFIG} is not plain YAML", CheckpointError, yaml.YAMLError):
        config = yaml.load(_open(archive, members[CONFIG], path), Loader=_PlainLoader)  # noqa: S506 - a safe one
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: {CONFIG} holds {type(config).__name__}, expected a mapping")
    check_fields(config, f"{path}: {CONFIG}")
    return config


def _weights(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: Path) -> dict[str, Tensor]:
    return read_pickle(_open(archive, members[WEIGHTS], path), members[WEIGHTS].size, f"{path}: {WEIGHTS}")


class _PlainLoader(yaml.SafeLoader):
    """YAML without merge keys, which can stand for any number of fields."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count the depth: deeper YAML would exhaust Python's stack."""
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {DEEPEST} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys as they are; no constructor knows them."""
