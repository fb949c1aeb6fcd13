"""The engines of one bundle for one machine: finds them in the store, or builds them and keeps them there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bestow_edge.core.bundle import FileEntry, check_entries
from bestow_edge.core.errors import ConfigError, EngineError
from bestow_edge.core.tensors import FOR_ENGINES
from bestow_edge.runtime.devices.backend import GraphFiles, Step
from bestow_edge.runtime.devices.tensorrt.building import Options, build_engine
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineKey, EngineStore, Machine
from bestow_edge.runtime.devices.tensorrt.library import Library
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds, digest, profiles

WORDS = ("rows", "prompt-tokens", "workspace-mb", "level")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a bundle's engines, which are part of their keys."""

    bounds: Bounds = field(default_factory=Bounds)
    """Sizes that they support."""
    options: Options = field(default_factory=Options)
    """Time and memory of TensorRT's search."""


def parse_settings(words: Sequence[str]) -> Settings:
    """Return the settings of words such as `rows=9`; the words are the options of `engines build`.

    Raises:
        ConfigError: if a word is unknown, or no whole number stands behind it.
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
        files: GraphFiles,
        library: Library,
        machine: Machine,
        store: EngineStore,
        settings: Settings = Settings(),
        *,
        capabilities: Sequence[str] = (),
    ) -> None:
        """Make the keys of the engines for a machine, an RTX card by its capability; nothing is read or built yet.

        Raises:
            EngineError: if the bundle is not made for TensorRT, or a bound is out of range.
        """
        check_target(files)
        self.machine, self.store, self.manifest = machine, store, files.manifest
        self._directory, self._library, self._settings = files.directory, library, settings
        self._capabilities = capabilities
        self.profiles = {name: profiles(spec, files.manifest, settings.bounds) for name, _, spec in files}
        """By graph; a runner counts them in this order."""
        self.keys = {name: self._key(name) for name in self.profiles}
        """By graph."""

    def missing(self) -> list[str]:
        """Return the graphs that have no engine in the store."""
        return [name for name, key in self.keys.items() if not self.store.has(key)]

    def load(self) -> dict[str, bytes]:
        """Return the engines by graph, without those that are missing or damaged."""
        return {name: plan for name, key in self.keys.items() if (plan := self.store.load(key)) is not None}

    def forget(self) -> None:
        """Delete the engines, so that they are built again."""
        for key in self.keys.values():
            self.store.delete(key)

    def build(self, name: str, step: Step) -> None:
        """Build a graph's engine and keep it; `step` gets the progress.

        Raises:
            BundleError: if the graph is missing, or differs from its hash in the manifest.
            EngineError: if the engine cannot be built.
            BuildCancelledError: if `step` returned False.
        """
        file, key = self.manifest.graphs[name].file, self.keys[name]
        entries = tuple(entry for entry in self.manifest.files if entry.path in _parts(file))
        check_entries(self._directory, entries, hashes=True)
        started = time.monotonic()
        built = build_engine(
            self._library,
            self._directory / file,
            self.manifest.specs[name],
            self.profiles[name],
            self._settings.options,
            timings=self.store.kept(self.machine.digest),
            capabilities=self._capabilities,
            step=step,
        )
        if built.timings:
            self.store.keep(self.machine.digest, built.timings)
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


def check_target(files: GraphFiles) -> None:
    """Raise an `EngineError` if a bundle's graphs are made for another target than engines."""
    if files.manifest.target not in FOR_ENGINES:
        problem = f"a bundle for {files.manifest.target}, and engines need standard operators"
        raise EngineError(f"{files.directory}: {problem}; export its checkpoint with --target tensorrt or rtx")


def graph_hash(files: tuple[FileEntry, ...], name: str) -> str:
    """Return one hash of a graph's file and its external data, from the manifest's hashes.

    Raises:
        EngineError: if the manifest does not list the file.
    """
    hashes = {entry.path: entry.sha256 for entry in files if entry.path in _parts(name)}
    if name not in hashes:
        raise EngineError(f"{name}: not among the bundle's files; export the checkpoint again")
    return "+".join(hashes[path] for path in sorted(hashes))


def _parts(file: str) -> tuple[str, str]:
    """Return a graph's file and the file of its external data, if it has some."""
    return file, f"{file}.data"
