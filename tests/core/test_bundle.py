"""The bundle's manifest: round trip, and every way a bundle can be damaged."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from bestow_edge.core import bundle as bundles
from bestow_edge.core.bundle import MANIFEST_FILE, check_files, list_files, read_manifest, write_manifest
from bestow_edge.core.errors import BundleError, BundleIntegrityError, BundleMissingError, BundleVersionError
from bestow_edge.core.files import sha256
from bestow_edge.core.hash_memory import HashMemory
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
        (lambda d: d["model"]["connector"].update(num_layers=2**31), "num_layers is 2147483648; expected 1 to 1000"),
        (lambda d: d["model"]["features"].update(sample_rate_hz=2**40), "sample_rate_hz is .*; expected 1 to 1e"),
        (lambda d: d["model"]["policy"].update(k=10**9), "policy: k is 1000000000; expected 1 to 1e"),
        (lambda d: d["model"]["segments"].update(pause_s=float("inf")), "segments: pause_s is inf; expected 0 to 1e"),
        (lambda d: d.update(prompts={}), "no prompt of de-de, a pair of the model"),
        (lambda d: d["prompts"].update({"en-en": []}), "prompt of en-en has 0 tokens"),
        (lambda d: d["prompts"].update({"en-en": [2**63]}), "token id 9223372036854775808; expected 0 to 299"),
        (lambda d: d.update(end_ids=[300]), "end_ids: token id 300; expected 0 to 299, the LLM's vocabulary"),
        (lambda d: d.update(end_ids=[]), "end_ids is empty"),
        (lambda d: d.update(max_text_tokens=0), "max_text_tokens is 0"),
        (lambda d: d["graphs"][LLM].update(file="llm_step.ort"), r"graph file 'llm_step\.ort'; expected \.onnx"),
        (lambda d: d["files"][0].update(size=-1), "files: size is -1"),
        (lambda d: d["files"][0].update(sha256="x"), "expected 64 hexadecimal digits"),
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


def unlist(name: str) -> Callable[[Document], object]:
    return lambda document: document.update(files=[item for item in document["files"] if item["path"] != name])


@pytest.mark.parametrize("name", ["llm_step.onnx", "tokenizer.json"])
def test_every_file_that_is_loaded_is_listed(bundle: Path, name: str) -> None:
    edit(bundle, unlist(name))
    with pytest.raises(BundleIntegrityError, match=f"{name}: bundle.json does not list it under files"):
        check_files(bundle, read_manifest(bundle), hashes=False)


def test_weights_beside_a_graph_are_listed(bundle: Path) -> None:
    (bundle / "llm_step.onnx.data").write_bytes(b"weights")
    with pytest.raises(BundleIntegrityError, match=r"llm_step\.onnx\.data: bundle\.json does not list it"):
        check_files(bundle, read_manifest(bundle), hashes=False)


def test_weights_of_another_name_are_listed(bundle: Path) -> None:
    graph = onnx.load(bundle / "llm_step.onnx")
    tensor = max(graph.graph.initializer, key=lambda item: len(item.raw_data))
    size = len(tensor.raw_data)
    onnx.save(graph, bundle / "llm_step.onnx", save_as_external_data=True, location="other.bin", size_threshold=size)
    manifest = replace(read_manifest(bundle), files=list_files(bundle))
    check_files(bundle, manifest, hashes=True)
    named = tuple(entry for entry in manifest.files if entry.path != "other.bin")
    with pytest.raises(BundleIntegrityError, match=r"its weights are in 'other\.bin', which bundle\.json omits"):
        check_files(bundle, replace(manifest, files=named), hashes=True)


def test_only_regular_files_within_the_directory(bundle: Path) -> None:
    manifest, path = read_manifest(bundle), bundle / "tokenizer.json"
    elsewhere = path.rename(bundle.parent / "elsewhere.json")
    path.symlink_to(elsewhere)
    with pytest.raises(BundleIntegrityError, match=r"tokenizer\.json: a link that leaves the bundle"):
        check_files(bundle, manifest, hashes=False)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleMissingError, match=r"tokenizer\.json: is no regular file"):
        check_files(bundle, manifest, hashes=False)


def test_a_file_is_hashed_once_until_it_changes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(bundles, "sha256", counted)
    manifest, store = read_manifest(bundle), tmp_path / "cache" / "hashes.json"
    for expected in (len(manifest.files), 0):
        hashed.clear()
        memory = HashMemory(store)
        check_files(bundle, manifest, hashes=memory)
        memory.save()
        assert len(hashed) == expected
    path = bundle / "llm_step.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match=r"llm_step\.onnx: SHA-256 differs"):
        check_files(bundle, manifest, hashes=HashMemory(store))
    store.write_text("[")
    with pytest.raises(BundleIntegrityError, match=r"llm_step\.onnx: SHA-256 differs"):
        check_files(bundle, manifest, hashes=HashMemory(store))
