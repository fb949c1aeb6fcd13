"""The bundle's manifest: round trip, and every way a bundle can be damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.bundle import MANIFEST_FILE, check_files, list_files, read_manifest, write_manifest
from bestow_edge.core.errors import BundleError, BundleIntegrityError, BundleMissingError, BundleVersionError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM

Document = dict[str, Any]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[Document], object]) -> None:
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_round_trip(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    text = (bundle / MANIFEST_FILE).read_text(encoding="utf-8")
    write_manifest(manifest, bundle)
    assert read_manifest(bundle) == manifest
    assert (bundle / MANIFEST_FILE).read_text(encoding="utf-8") == text
    assert set(manifest.specs) == set(manifest.graphs) == {ENCODER, ADAPTER, LLM}
    assert list_files(bundle) == manifest.files
    check_files(bundle, manifest, hashes=True)


def test_a_manifest_lists_every_other_file(bundle: Path) -> None:
    listed = {entry.path for entry in read_manifest(bundle).files}
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert there == listed | {MANIFEST_FILE}


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match=r"not a bundle, bundle\.json is missing; make one"):
        read_manifest(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=1), "format bestow-edge-bundle 1, expected bestow-edge-bundle 5"),
        (
            lambda d: d.update(format_version=4),
            r"bundle\.json: format bestow-edge-bundle 4, expected bestow-edge-bundle 5; export the checkpoint again$",
        ),
        (lambda d: d.update(format="other"), "format other 5, expected"),
        (lambda d: d.pop("format_version"), "format bestow-edge-bundle None, expected"),
    ],
)
def test_another_version(bundle: Path, change: Callable[[Document], object], message: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleVersionError, match=message):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra=1), r"bundle\.json: unknown extra; known are model, target, graphs"),
        (lambda d: d.pop("prompts"), r"bundle\.json: prompts is missing"),
        (lambda d: d["model"]["policy"].update(k="3"), r"bundle\.json\.model\.policy\.k: expected int, got str '3'"),
        (lambda d: d["model"]["policy"].update(k=0), "k and l must be at least 1"),
        (
            lambda d: d["graphs"][LLM].update(precision="int3"),
            r"graphs\.llm_step\.precision: expected one of fp32, fp16, int8, int4",
        ),
        (lambda d: d["files"][1].pop("sha256"), r"files\[1\]: sha256 is missing"),
        (lambda d: d["graphs"].pop(ADAPTER), "no entry for graph adapter_step; export the checkpoint again"),
        (lambda d: d["model"]["encoder"]["network"].pop("num_attention_heads"), "num_attention_heads"),
        (lambda d: d["model"]["llm"].pop("vocab_size"), "vocab_size"),
    ],
)
def test_wrong_manifests(bundle: Path, change: Callable[[Document], object], message: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


def test_not_json(bundle: Path) -> None:
    (bundle / MANIFEST_FILE).write_text('{"format": ')
    with pytest.raises(BundleError, match="not valid JSON"):
        read_manifest(bundle)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "C:/x", "a\\b"])
@pytest.mark.parametrize("place", ["files", "graphs"])
def test_paths_stay_inside(bundle: Path, path: str, place: str) -> None:
    def change(document: Document) -> None:
        if place == "files":
            document["files"][0]["path"] = path
        else:
            document["graphs"][ENCODER]["file"] = path

    edit(bundle, change)
    with pytest.raises(BundleError, match="leaves the bundle; every path must be relative and inside it"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["encoder_chunk.onnx", "tokenizer.json", "golden.npz"])
def test_missing_files(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleMissingError, match=f"{name}: the file is missing"):
        check_files(bundle, read_manifest(bundle), hashes=False)


def test_truncated_file(bundle: Path) -> None:
    path = bundle / "llm_step.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleIntegrityError, match=f"{size - 1} bytes, the manifest says {size}; it is truncated"):
        check_files(bundle, read_manifest(bundle), hashes=False)


def test_altered_file(bundle: Path) -> None:
    path = bundle / "llm_step.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest, hashes=False)
    with pytest.raises(BundleIntegrityError, match=r"llm_step\.onnx: SHA-256 differs from the manifest"):
        check_files(bundle, manifest, hashes=True)
