"""Engines on disk: each under the hash of all it depends on, beside a record that says what that was. No TensorRT here.

An engine is loaded only if its record's key is, field by field, the key asked for and its bytes have the record's hash:
one of another GPU, driver, TensorRT, graph or profile is never found, a damaged one is deleted and counts as missing.
The store belongs to one user; engines hold code for the GPU, so none is ever taken from a bundle or from others.
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

from bestow_edge.core.config import read_json
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically

FORMAT_VERSION = 1
RECORD, ENGINE, TIMINGS = ".json", ".engine", ".timings"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What an engine is bound to, graphs apart."""

    gpu: str
    """Name and compute capability."""
    driver: str
    """Version of the driver."""
    tensorrt: str
    """Version of TensorRT, all of it: engines of a later patch are refused too."""

    @property
    def digest(self) -> str:
        """A short hash of all fields."""
        return _digest(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """All that an engine depends on."""

    graph: str
    """Name of the graph."""
    onnx_sha256: str
    """Hash of the `.onnx` file and its external data."""
    precision: str
    """Of its weights."""
    profiles: str
    """Hash of all profiles."""
    options: str
    """How it was built."""
    machine: Machine
    """Where it was built, and where alone it runs."""

    @property
    def name(self) -> str:
        """Its files' name without suffix."""
        return f"{self.graph}-{_digest(asdict(self))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """What lies beside an engine."""

    format_version: int
    """Of this record."""
    key: EngineKey
    """What it depends on."""
    source: str
    """Path of the graph it was built from, for people."""
    size: int
    """Bytes."""
    sha256: str
    """Of the engine."""
    built_s: float
    """Seconds it took."""
    built_at: str
    """UTC time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine of the store, or what is left of one."""

    path: Path
    """Of the engine."""
    record: EngineRecord | None
    """None where it cannot be read."""

    def delete(self) -> None:
        """Delete it and its record."""
        for path in (self.path.with_suffix(RECORD), self.path):
            path.unlink(missing_ok=True)


class EngineStore:
    """A directory of engines."""

    def __init__(self, directory: Path) -> None:
        """Use a directory, which need not exist."""
        self.directory = directory

    def load(self, key: EngineKey) -> bytes | None:
        """Return the engine of a key, None if there is none; a damaged one is deleted."""
        stored = self._read(self._path(key))
        if stored is None:
            return None
        problem, plan = self._check(stored, key)
        if plan is None:
            logger.warning("%s: %s; it is built again", stored.path, problem)
            stored.delete()
        return plan

    def has(self, key: EngineKey) -> bool:
        """Say whether an engine of a key is there, its bytes not looked at."""
        stored = self._read(self._path(key))
        return stored is not None and stored.record is not None and stored.record.key == key

    def save(self, key: EngineKey, plan: bytes | memoryview, *, source: Path, built_s: float) -> None:
        """Write an engine, then its record: one without the other counts as missing."""
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
        """Yield every engine there is, and what is left of broken ones."""
        names = {path.with_suffix(ENGINE) for suffix in (ENGINE, RECORD) for path in self.directory.glob(f"*{suffix}")}
        for path in sorted(names):
            if (stored := self._read(path)) is not None:
                yield stored

    def prune(self, keep: Callable[[EngineRecord], bool]) -> list[Stored]:
        """Delete engines that are damaged or that `keep` does not want, and return them."""
        gone = []
        for stored in list(self.engines()):
            record = stored.record
            if record is None or not keep(record) or self._check(stored, record.key)[1] is None:
                stored.delete()
                gone.append(stored)
        return gone

    def timings(self, machine: Machine) -> bytes:
        """Return the timing cache of a machine, empty if there is none."""
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
        """Return an engine's bytes, or what is wrong with it."""
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


def _digest(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
