"""Engines on disk, each under the hash of its key and beside a record of that key.

The store gives an engine only if its record's key equals the requested key in every field and its bytes have the
record's hash. So an engine of another GPU, driver, TensorRT, graph or profile is never loaded, and a damaged one is
deleted and counts as missing. The store belongs to one user: engines hold code for the GPU, and code is never taken
from a bundle or from other users.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bestow_edge.core.config import read_json
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically

FORMAT_VERSION = 1
RECORD, ENGINE, TIMINGS = ".json", ".engine", ".timings"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The hardware and software that an engine is bound to."""

    gpu: str
    """Name and compute capability."""
    driver: str
    """Version of the driver."""
    tensorrt: str
    """Full version of TensorRT: it refuses engines of another patch version too."""

    @property
    def digest(self) -> str:
        """A short hash of all fields."""
        return _digest(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """Everything an engine depends on."""

    graph: str
    """Name of the graph."""
    onnx_sha256: str
    """Hash of the `.onnx` file and its external data."""
    precision: str
    """Of its weights."""
    profiles: str
    """Hash of all profiles."""
    options: str
    """Options of the builder."""
    machine: Machine
    """It was built there and runs nowhere else."""

    @property
    def name(self) -> str:
        """Its files' name without suffix."""
        return f"{self.graph}-{_digest(asdict(self))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """The JSON file beside an engine."""

    format_version: int
    """Of this record."""
    key: EngineKey
    """Of the engine."""
    source: str
    """Path of its graph, for people."""
    size: int
    """Bytes."""
    sha256: str
    """Of the engine."""
    built_s: float
    """Seconds the build took."""
    built_at: str
    """UTC time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine of the store, or the rest of a broken one."""

    path: Path
    """Of the engine."""
    record: EngineRecord | None
    """None if it cannot be read."""

    def delete(self) -> None:
        """Delete it and its record."""
        for path in (self.path.with_suffix(RECORD), self.path):
            path.unlink(missing_ok=True)


class EngineStore:
    """A directory of engines."""

    def __init__(self, directory: Path) -> None:
        """Use a directory; the first `save` creates it."""
        self.directory = directory

    def load(self, key: EngineKey) -> bytes | None:
        """Return the engine of a key; None if it is missing or damaged. A damaged one is deleted."""
        stored = self._read(self._path(key))
        if stored is None:
            return None
        problem, plan = self._check(stored, key)
        if plan is None:
            logger.warning("%s: %s; it is built again", stored.path, problem)
            stored.delete()
        return plan

    def has(self, key: EngineKey) -> bool:
        """Return whether the store has an engine of a key, without reading its bytes."""
        stored = self._read(self._path(key))
        return stored is not None and stored.record is not None and stored.record.key == key

    def save(self, key: EngineKey, plan: bytes | memoryview, *, source: Path, built_s: float) -> None:
        """Write an engine, then its record; an engine without a record counts as missing."""
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
        """Delete the engine of a key, if there is one."""
        Stored(self._path(key), None).delete()

    def engines(self) -> Iterator[Stored]:
        """Yield every engine, and the rest of broken ones."""
        names = {path.with_suffix(ENGINE) for suffix in (ENGINE, RECORD) for path in self.directory.glob(f"*{suffix}")}
        for path in sorted(names):
            if (stored := self._read(path)) is not None:
                yield stored

    def prune(self, keep: Callable[[EngineRecord], bool]) -> list[Stored]:
        """Delete damaged engines and those for which `keep` is False, and return them."""
        gone = []
        for stored in list(self.engines()):
            record = stored.record
            if record is None or not keep(record) or self._check(stored, record.key)[1] is None:
                stored.delete()
                gone.append(stored)
        return gone

    def timings(self, machine: Machine) -> bytes:
        """Return the timing cache of a machine; empty if there is none."""
        path = self.directory / f"{machine.digest}{TIMINGS}"
        return path.read_bytes() if path.is_file() else b""

    def save_timings(self, machine: Machine, timings: bytes) -> None:
        """Keep the timing cache of a machine."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / f"{machine.digest}{TIMINGS}", timings)

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
        """Return a problem and None, or an empty text and the engine's bytes."""
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
    """Return the directory of a user's engines, below XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "bestow-edge" / "engines"


def _digest(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
