"""The engines of one bundle on one machine: found in the store, or built and kept there. Knows no graphs that run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bestow_edge.core.bundle import BundleManifest, FileEntry, check_files
from bestow_edge.core.errors import ConfigError, EngineError
from bestow_edge.runtime.devices.tensorrt.building import Options, Step, build_engine
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine
from bestow_edge.runtime.devices.tensorrt.library import TensorRt
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds, Profile, digest, profiles

WORDS = ("rows", "prompt-tokens", "workspace-mb", "level")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What engines are built with."""

    bounds: Bounds = field(default_factory=Bounds)
    """Sizes they run with."""
    options: Options = field(default_factory=Options)
    """How long and with how much memory TensorRT searches."""


def parse_settings(words: Sequence[str]) -> Settings:
    """Return the settings that words such as `rows=9` ask for; the words are the options of `engines build`.

    Raises:
        ConfigError: a word is unknown, or no whole number stands behind it.
    """
    values = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in WORDS or not value.isdecimal():
            expected = ", ".join(f"{name}=NUMBER" for name in WORDS)
            raise ConfigError(f"{word!r}: expected {expected}")
        values[key.replace("-", "_")] = int(value)
    bounds = {name: values.pop(name) for name in ("rows", "prompt_tokens") if name in values}
    return Settings(bounds=Bounds(**bounds), options=Options(**values))


class BundleEngines:
    """Engines of a bundle's graphs."""

    def __init__(
        self,
        directory: Path,
        manifest: BundleManifest,
        *,
        trt: TensorRt,
        machine: Machine,
        store: EngineStore,
        settings: Settings = Settings(),
    ) -> None:
        """Work out the keys; nothing is read or built yet.

        Args:
            directory: the bundle.
            manifest: its manifest.
            trt: the module.
            machine: where engines are built and run.
            store: where they are kept.
            settings: how they are built.

        Raises:
            EngineError: the bundle is not made for TensorRT, or a bound is out of range.
        """
        check_target(directory, manifest)
        self.machine, self.store, self.manifest = machine, store, manifest
        self._directory, self._trt, self._settings = directory, trt, settings
        self.profiles: dict[str, tuple[Profile, ...]] = {
            name: profiles(spec, manifest, settings.bounds) for name, spec in manifest.specs.items()
        }
        """Of each graph, as its runner counts them."""
        self.keys = {name: self._key(name) for name in manifest.specs}
        """Of each graph."""

    def missing(self) -> list[str]:
        """Return the graphs whose engine is not in the store."""
        return [name for name, key in self.keys.items() if not self.store.has(key)]

    def load(self, name: str) -> bytes | None:
        """Return a graph's engine, None if it is not in the store or was damaged."""
        return self.store.load(self.keys[name])

    def forget(self) -> None:
        """Delete the engines, so that they are built again: TensorRT refused one that was not damaged on disk."""
        for key in self.keys.values():
            self.store.delete(key)

    def build(self, name: str, step: Step) -> None:
        """Build a graph's engine and keep it.

        Args:
            name: of the graph.
            step: told what is going on.

        Raises:
            BundleError: the graph is missing, or not what its hash in the manifest says.
            EngineError: it cannot be built.
            BuildCancelledError: `step` said so.
        """
        file, key = self.manifest.graphs[name].file, self.keys[name]
        entries = tuple(entry for entry in self.manifest.files if entry.path in _parts(file))
        check_files(self._directory, replace(self.manifest, files=entries), hashes=True)
        started = time.monotonic()
        built = build_engine(
            self._trt,
            self._directory / file,
            self.manifest.specs[name],
            self.profiles[name],
            self._settings.options,
            timings=self.store.timings(self.machine),
            step=step,
        )
        if built.timings:
            self.store.save_timings(self.machine, built.timings)
        took = time.monotonic() - started
        self.store.save(key, built.plan, source=self._directory / file, built_s=took)
        logger.info("%s: engine built in %.0f s, %.1f MB", name, took, built.plan.nbytes / 1e6)

    def _key(self, name: str) -> EngineKey:
        entry = self.manifest.graphs[name]
        options = ",".join(f"{field}={value}" for field, value in asdict(self._settings.options).items())
        return EngineKey(
            graph=name,
            onnx_sha256=graph_hash(self.manifest.files, entry.file),
            precision=entry.precision,
            profiles=digest(self.profiles[name]),
            options=options,
            machine=self.machine,
        )


def check_target(directory: Path, manifest: BundleManifest) -> None:
    """Refuse a bundle whose graphs are not made for TensorRT.

    Raises:
        EngineError: what it is made for, and what to do.
    """
    if manifest.target != "tensorrt":
        problem = f"a bundle for {manifest.target}, and engines need standard operators"
        raise EngineError(f"{directory}: {problem}; export its checkpoint with --target tensorrt")


def graph_hash(files: tuple[FileEntry, ...], name: str) -> str:
    """Return one hash of a graph's file and its external data, from those in the manifest.

    Raises:
        EngineError: the manifest does not list the file.
    """
    hashes = {entry.path: entry.sha256 for entry in files if entry.path in _parts(name)}
    if name not in hashes:
        raise EngineError(f"{name}: not among the bundle's files; export the checkpoint again")
    return "+".join(hashes[path] for path in sorted(hashes))


def _parts(file: str) -> tuple[str, str]:
    """Return a graph's file and where its weights lie if they are apart."""
    return file, f"{file}.data"
