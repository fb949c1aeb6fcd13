"""The bundle: a directory with `bundle.json`, the graphs and the tokenizer. Standard library only.

This module reads, checks and writes the manifest. Nothing in a bundle is ever executed or unpickled, and no path may
leave the directory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from bestow_edge.core.config import ModelConfig, read_json
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import (
    BundleError,
    BundleIntegrityError,
    BundleMissingError,
    BundleVersionError,
    ConfigError,
)
from bestow_edge.core.files import sha256
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.tensors import GraphSpec, Target

MANIFEST_FILE = "bundle.json"
GOLDEN_FILE = "golden.npz"
FORMAT = "bestow-edge-bundle"
FORMAT_VERSION = 5

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


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphEntry:
    """One exported graph."""

    file: str
    """Its `.onnx` file; external data is beside it."""
    precision: Precision
    """Of its weights."""


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

    @property
    def specs(self) -> dict[str, GraphSpec]:
        """Contracts of the graphs, by name."""
        return graph_specs(self.model, self.target)


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
        if pure.is_absolute() or ".." in pure.parts or "\\" in entry or ":" in entry:
            raise BundleError(f"{path}: {entry!r} leaves the bundle; every path must be relative and inside it")
    if missing := set(specs) - set(manifest.graphs):
        raise BundleError(f"{path}: no entry for graph {', '.join(sorted(missing))}; export the checkpoint again")
    return manifest


def check_files(directory: Path, manifest: BundleManifest, *, hashes: bool) -> None:
    """Check that every file is there and unchanged.

    Args:
        directory: the bundle.
        manifest: its manifest.
        hashes: compare SHA-256 too, not sizes alone.

    Raises:
        BundleMissingError: if a file is missing.
        BundleIntegrityError: if a file has another size or content.
    """
    for entry in manifest.files:
        path = directory / entry.path
        if not path.is_file():
            raise BundleMissingError(f"{path}: the file is missing; copy the whole bundle again or export it again")
        if (size := path.stat().st_size) != entry.size:
            message = f"{path}: {size} bytes, the manifest says {entry.size}; it is truncated or altered, copy it again"
            raise BundleIntegrityError(message)
        if hashes and sha256(path) != entry.sha256:
            raise BundleIntegrityError(f"{path}: SHA-256 differs from the manifest; it was altered, copy it again")


def _check_version(document: dict[str, Any], path: Path) -> None:
    got = document.pop("format", None), document.pop("format_version", None)
    if got != (FORMAT, FORMAT_VERSION):
        expected = f"{FORMAT} {FORMAT_VERSION}"
        raise BundleVersionError(f"{path}: format {got[0]} {got[1]}, expected {expected}; export the checkpoint again")
