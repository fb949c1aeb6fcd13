"""The bundle: a directory with `bundle.json`, the graphs and the tokenizer. Standard library only.

This module reads, checks and writes the manifest. Nothing in a bundle is ever unpickled, nothing but engines for RTX
cards is code, no path may leave the directory, and every number of the manifest has a range.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import (
    BundleError,
    BundleIntegrityError,
    BundleMissingError,
    BundleVersionError,
    ConfigError,
)
from bestow_edge.core.files import sha256, tidy
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.hash_memory import HashMemory
from bestow_edge.core.json_text import read_json
from bestow_edge.core.ranges import check_ranges, check_tokens
from bestow_edge.core.tensors import GraphSpec, Target

MANIFEST_FILE = "bundle.json"
GOLDEN_FILE, TOKENIZER_FILE = "golden.npz", "tokenizer.json"
DATA_SUFFIX = ".data"  # of a graph's weights in a file of their own
FORMAT = "bestow-edge-bundle"
FORMAT_VERSION = 5

_LOCATION = b"\x0a\x08location\x12"  # key, and the tag of the value that follows

Precision = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of the bundle."""

    path: str
    """Relative to the bundle, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""

    def __post_init__(self) -> None:
        """Check the size and the form of the hash."""
        check_ranges("files", self, size=(0, 2**62))
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ConfigError(f"files: sha256 of {self.path} is {self.sha256!r:.70}; expected 64 hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphEntry:
    """One exported graph."""

    file: str
    """Its `.onnx` file; external data is beside it."""
    precision: Precision
    """Of its weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineEntry:
    """The engine of a graph for RTX cards, which TensorRT for RTX built; size and hash are in `files`."""

    file: str
    """In the bundle."""
    library: str
    """Version of TensorRT for RTX; another one does not load it."""
    capabilities: tuple[str, ...]
    """Compute capabilities it was built for, such as `sm86`."""
    graph_sha256: str
    """Hash of the graph it was built from, and of its weights."""
    profiles: str
    """Hash of the sizes that it accepts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityRow:
    """Largest difference between a graph and PyTorch at one size of input."""

    graph: str
    case: str
    """Sizes tried."""
    precision: Precision
    """Of its weights."""
    error: float
    """Largest absolute difference over the largest absolute value, over all outputs."""
    tolerance: float
    """Largest `error` allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRow:
    """Cost and gain of a graph's precision."""

    graph: str
    precision: Precision
    """Of its weights."""
    bytes: int
    """Of the graph and its weights."""
    bits_per_weight: float
    """`bytes` over the number of weights, scales and everything else included."""
    error: float
    """Largest difference from PyTorch over the largest value on random inputs: the worst row of `parity`."""
    agreement: float | None
    """Share of decisions that stay the same when this graph alone is not fp32; None with float16 caches, which fp32
    graphs don't take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationReport:
    """Cost of all precisions together: decisions on real speech, each after the same text, against fp32."""

    rows: tuple[QuantizationRow, ...]
    """One for each graph."""
    utterances: int
    """Recordings heard."""
    decisions: int
    """Next tokens compared, pauses included."""
    agreement: float
    """Share of them that are the same with all graphs as they are in the bundle."""
    least: float
    """Share below which no bundle was to be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleManifest:
    """Content of `bundle.json`."""

    model: ModelConfig
    target: Target
    """Device that the graphs were made for."""
    graphs: dict[str, GraphEntry]
    prompts: dict[str, tuple[int, ...]]
    """Token ids of the whole prompt of each language pair."""
    end_ids: tuple[int, ...]
    """Tokens that end an answer."""
    max_text_tokens: int
    """Tokens, prompt included, that one segment may hold: the LLM's context."""
    files: tuple[FileEntry, ...]
    """Every file but the manifest itself."""
    parity: tuple[ParityRow, ...]
    """Comparison with PyTorch at export."""
    quantization: QuantizationReport | None
    """Cost of its precisions; None where all graphs are fp32."""
    tools: dict[str, str]
    """Versions of what wrote the bundle."""
    checkpoint_sha256: str
    """Hash of the weights it was made from."""
    engines: dict[str, EngineEntry] = field(default_factory=dict)
    """By graph; empty for a bundle without engines, which every device reads."""
    scores_several: bool = False
    """Whether one run of the LLM scores several tokens, so that guessed ones can be checked at once."""

    def __post_init__(self) -> None:
        """Check that prompts, tokens and limits fit the model."""
        check_ranges(MANIFEST_FILE, self, max_text_tokens=(1, 2**31 - 1))
        for pair, ids in self.prompts.items():
            if not 0 < len(ids) <= self.max_text_tokens:
                got = f"prompt of {pair} has {len(ids)} tokens"
                raise ConfigError(f"{MANIFEST_FILE}: {got}; expected 1 to max_text_tokens, {self.max_text_tokens}")
            check_tokens(f"{MANIFEST_FILE}: prompt of {pair}", ids, self.model.llm)
        if missing := set(self.model.pairs) - set(self.prompts):
            raise ConfigError(f"{MANIFEST_FILE}: no prompt of {min(missing)}, a pair of the model")
        if not self.end_ids:
            raise ConfigError(f"{MANIFEST_FILE}: end_ids is empty; without one an answer never ends")
        check_tokens(f"{MANIFEST_FILE}: end_ids", self.end_ids, self.model.llm)

    @property
    def specs(self) -> dict[str, GraphSpec]:
        """Contracts of the graphs, by name."""
        return graph_specs(self.model, self.target, several=self.scores_several)

    def engine_files(self, *names: str) -> list[FileEntry]:
        """Return the files of some graphs' engines, or of all.

        Raises:
            BundleIntegrityError: if one is not listed under `files`.
        """
        wanted = [self.engines[name].file for name in names or self.engines]
        found = [entry for entry in self.files if entry.path in wanted]
        if missing := set(wanted) - {entry.path for entry in found}:
            raise BundleIntegrityError(
                f"{MANIFEST_FILE} does not list {min(missing)!r:.60} under files; build it again"
            )
        return found


def write_manifest(manifest: BundleManifest, directory: Path) -> None:
    """Write `bundle.json`."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def list_files(directory: Path) -> tuple[FileEntry, ...]:
    """Describe every file of a directory but the manifest and Python's own."""
    names = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return tuple(
        FileEntry(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=sha256(path))
        for path in names
    )


def read_manifest(directory: Path) -> BundleManifest:
    """Read and check a manifest, without looking at the other files.

    Raises:
        BundleMissingError: if there is no manifest.
        BundleVersionError: if it was written in another format version.
        BundleError: if it has unknown, missing or wrong fields, or paths that leave the bundle.
    """
    path = directory / MANIFEST_FILE
    if not directory.exists():
        tidy(directory)
    if not path.is_file():
        raise BundleMissingError(f"{directory}: not a bundle, {MANIFEST_FILE} is missing; make one: bestow-edge export")
    try:
        document = read_json(path)
        _check_version(document, path)
        manifest = decode(BundleManifest, document, MANIFEST_FILE)
        specs = manifest.specs
    except ConfigError as error:
        raise BundleError(f"{directory}: {error}") from error
    except KeyError as error:
        raise BundleError(f"{path}: the encoder's or the LLM's config lacks {error}; export again") from error
    for entry in (*(item.path for item in manifest.files), *(graph.file for graph in manifest.graphs.values())):
        pure = PurePosixPath(entry)
        if pure.is_absolute() or ".." in pure.parts or "\\" in entry or ":" in entry or not entry.isprintable():
            raise BundleError(f"{path}: {entry!r} leaves the bundle; every path must be relative and inside it")
    if odd := [graph.file for graph in manifest.graphs.values() if not graph.file.endswith(".onnx")]:
        raise BundleError(f"{path}: graph file {odd[0]!r:.60}; expected .onnx: other formats hold compiled code")
    if missing := set(specs) - set(manifest.graphs):
        raise BundleError(f"{path}: no entry for graph {', '.join(sorted(missing))}; export the checkpoint again")
    return manifest


def check_files(directory: Path, manifest: BundleManifest, *, hashes: bool | HashMemory) -> None:
    """Check that every file is there and unchanged, and that the manifest names every file that is loaded.

    Engines are left out: a device that takes them checks them, and does without one that is missing or altered.

    Args:
        directory: the bundle.
        manifest: its manifest.
        hashes: compare SHA-256 too, not sizes alone; a memory leaves out files that it knows.

    Raises:
        BundleMissingError: if a file is missing or no regular file.
        BundleIntegrityError: if a file has another size or content, is a link out of the bundle, or is not named.
    """
    names = {entry.path for entry in manifest.files}
    for name in _loaded(directory, manifest):
        if name not in names:
            got = f"{directory / name}: {MANIFEST_FILE} does not list it under files"
            raise BundleIntegrityError(f"{got}, but it would be loaded; export the checkpoint again")
    engines = {entry.file for entry in manifest.engines.values()}
    check_entries(directory, [entry for entry in manifest.files if entry.path not in engines], hashes=hashes)


def check_entries(directory: Path, entries: Sequence[FileEntry], *, hashes: bool | HashMemory) -> None:
    """Check that some files of a bundle are there and unchanged; arguments and errors are those of `check_files`."""
    home, names = _home(directory), {entry.path for entry in entries}
    for entry in entries:
        path = directory / entry.path
        if not path.is_file():
            how = "is no regular file" if path.exists() else "the file is missing"
            raise BundleMissingError(f"{path}: {how}; copy the whole bundle again or export it again")
        if not path.resolve().is_relative_to(home):
            raise BundleIntegrityError(f"{path}: a link that leaves the bundle; copy the file itself")
        state = path.stat()
        if state.st_size != entry.size:
            message = f"{path}: {state.st_size} bytes, the manifest says {entry.size}"
            raise BundleIntegrityError(f"{message}; it is truncated or altered, copy it again")
        if hashes:
            _check_content(path, state, entry, names, hashes if isinstance(hashes, HashMemory) else None)


def _check_content(
    path: Path, state: os.stat_result, entry: FileEntry, listed: Collection[str], memory: HashMemory | None
) -> None:
    if memory is not None and memory.knows(path, state, entry.sha256):
        return
    if sha256(path) != entry.sha256:
        raise BundleIntegrityError(f"{path}: SHA-256 differs from the manifest; it was altered, copy it again")
    if path.suffix == ".onnx" and (unknown := _data_files(path) - set(listed)):
        raise BundleIntegrityError(f"{path}: its weights are in {min(unknown)!r:.60}, which {MANIFEST_FILE} omits")
    if memory is not None:
        memory.add(path, state, entry.sha256)


def _loaded(directory: Path, manifest: BundleManifest) -> list[str]:
    """Return the names of the files that a model or `verify` reads."""
    graphs = [manifest.graphs[name].file for name in manifest.specs]
    data = [name + DATA_SUFFIX for name in graphs if (directory / (name + DATA_SUFFIX)).exists()]
    return [*graphs, *data, TOKENIZER_FILE]


def _data_files(graph: Path) -> set[str]:
    """Return the files that hold weights of a graph: values of the key `location` in its protocol buffer."""
    content, found = graph.read_bytes(), set[str]()
    for part in content.split(_LOCATION)[1:]:
        length = part[0] if part else 0
        if 0 < length < 128:
            found.add((PurePosixPath(part[1 : length + 1].decode("utf-8", "backslashreplace"))).as_posix())
    return found


def _home(directory: Path) -> Path:
    """Return the directory that no file may leave; in the Hub's cache, files are links to blobs beside the snapshot."""
    resolved = directory.resolve()
    if resolved.parent.name == "snapshots" and (resolved.parent.parent / "blobs").is_dir():
        return resolved.parent.parent
    return resolved


def _check_version(document: dict[str, Any], path: Path) -> None:
    got = document.pop("format", None), document.pop("format_version", None)
    if got != (FORMAT, FORMAT_VERSION):
        expected = f"{FORMAT} {FORMAT_VERSION}"
        raise BundleVersionError(f"{path}: format {got[0]} {got[1]}, expected {expected}; export the checkpoint again")
