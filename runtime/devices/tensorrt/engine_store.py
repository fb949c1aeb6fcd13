"""TensorRT engines on disk. An engine's file is named by a hash of its key, and a JSON record beside it holds the key.

An engine is loaded only if every field of its record's key is equal to the requested key and its bytes match the
record's hash. So an engine for another GPU, driver, TensorRT, graph or profile is never loaded. A damaged engine is
deleted. The store belongs to one user. Timings of kernels and kernels compiled for RTX lie beside the engines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import read_json

FORMAT_VERSION = 1
RECORD, ENGINE, CACHE = ".json", ".engine", ".cache"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """GPU, driver and TensorRT of an engine."""

    gpu: str
    """Name and compute capability."""
    driver: str
    """Version of the driver."""
    tensorrt: str
    """Full version of TensorRT. Engines of another patch release are refused too."""

    @property
    def digest(self) -> str:
        """A short hash of all fields."""
        return short_hash(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """Everything that an engine depends on."""

    graph: str
    onnx_sha256: str
    """Hash of the `.onnx` file and its external data."""
    precision: str
    """Precision of the weights."""
    profiles: str
    """Hash of all profiles."""
    options: str
    machine: Machine
    """It does not run on others."""

    @property
    def name(self) -> str:
        """Name of its files without suffix."""
        return f"{self.graph}-{short_hash(asdict(self))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """The JSON record of an engine."""

    format_version: int
    key: EngineKey
    source: str
    """Path of the graph it was built from, for listings."""
    size: int
    """Bytes."""
    sha256: str
    """Hash of the engine's bytes."""
    built_s: float
    """Duration of the build, seconds."""
    built_at: str
    """End of the build, UTC."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine of the store. Its file or its record may be missing."""

    path: Path
    """Path of the engine's file."""
    record: EngineRecord | None
    """None = it cannot be read."""

    def delete(self) -> None:
        """Delete it and its record."""
        for path in (self.path.with_suffix(RECORD), self.path):
            path.unlink(missing_ok=True)


class EngineStore:
    """A directory of engines."""

    def __init__(self, directory: Path) -> None:
        """Use a directory. It is made when the first engine is saved."""
        self.directory = directory

    def load(self, key: EngineKey) -> bytes | None:
        """Return the engine of a key, None if it is missing. A damaged engine is deleted and counts as missing."""
        stored = self._read(self._path(key))
        if stored is None:
            return None
        problem, plan = self._check(stored, key)
        if plan is None:
            logger.warning("%s: %s; it is built again", stored.path, problem)
            stored.delete()
        return plan

    def has(self, key: EngineKey) -> bool:
        """Return whether there is an engine of a key. Its bytes are not checked."""
        stored = self._read(self._path(key))
        return stored is not None and stored.record is not None and stored.record.key == key

    def save(self, key: EngineKey, plan: bytes | memoryview, *, source: Path, built_s: float) -> None:
        """Write an engine, then its record. An engine without a record counts as missing."""
        path = self._path(key)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, plan)
        record = EngineRecord(
            format_version=FORMAT_VERSION,
            key=key,
            source=str(source.resolve()),
            size=len(plan),
            sha256=hashlib.sha256(plan).hexdigest(),
            built_s=round(built_s, 1),
            built_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        write_atomically(path.with_suffix(RECORD), json.dumps(asdict(record), indent=2) + "\n")

    def delete(self, key: EngineKey) -> None:
        """Delete the engine of a key if it exists."""
        Stored(self._path(key), None).delete()

    def engines(self) -> Iterator[Stored]:
        """Yield all engines, also those whose file or record is missing."""
        names = {path.with_suffix(ENGINE) for suffix in (ENGINE, RECORD) for path in self.directory.glob(f"*{suffix}")}
        for path in sorted(names):
            if (stored := self._read(path)) is not None:
                yield stored

    def prune(self, keep: Callable[[EngineRecord], bool]) -> list[Stored]:
        """Delete engines that are damaged or for which `keep` is false, and return them."""
        deleted = []
        for stored in list(self.engines()):
            record = stored.record
            if record is None or not keep(record) or self._check(stored, record.key)[1] is None:
                stored.delete()
                deleted.append(stored)
        return deleted

    def cache(self, name: str) -> Path:
        """Return the file of a cache: timings under a machine's digest, compiled kernels under an engine's name."""
        return self.directory / f"{name}{CACHE}"

    def kept(self, name: str) -> bytes:
        """Return the content of a cache, empty if it does not exist."""
        path = self.cache(name)
        return path.read_bytes() if path.is_file() else b""

    def keep(self, name: str, content: bytes) -> None:
        """Write a cache."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.cache(name), content)

    def _path(self, key: EngineKey) -> Path:
        return self.directory / f"{key.name}{ENGINE}"

    def _read(self, path: Path) -> Stored | None:
        if not path.is_file() and not path.with_suffix(RECORD).is_file():
            return None
        try:
            record = decode(EngineRecord, read_json(path.with_suffix(RECORD)), "engine")
        except (ConfigError, OSError):
            return Stored(path, None)
        return Stored(path, record if record.format_version == FORMAT_VERSION else None)

    @staticmethod
    def _check(stored: Stored, key: EngineKey) -> tuple[str, bytes | None]:
        """Return the problem of an engine, empty if it has none, and its bytes, None if it has a problem."""
        record = stored.record
        if record is None:
            return "its record is missing or damaged", None
        if record.key != key:
            return "its record is of another engine", None
        if not stored.path.is_file():
            return "the engine is missing", None
        plan = stored.path.read_bytes()
        if len(plan) != record.size or hashlib.sha256(plan).hexdigest() != record.sha256:
            return "the engine is damaged", None
        return "", plan


def default_directory() -> Path:
    """Return where a user's engines are kept: `bestow-edge/engines` in the system's folder of caches."""
    return user_cache_path("bestow-edge", appauthor=False) / "engines"


def short_hash(content: object) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
