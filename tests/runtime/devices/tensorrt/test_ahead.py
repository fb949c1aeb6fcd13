"""Engines for RTX in a bundle, with the fake module: sessions, the fallback to ONNX, the manifest, kept kernels."""

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeRuntime, install_cuda
from fake_tensorrt import RTX, fake_tensorrt

from bestow_edge.core.bundle import BundleManifest, read_manifest, write_manifest
from bestow_edge.core.errors import BundleError, ConfigError, EngineError
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.runtime import TextEvent, load
from bestow_edge.runtime.devices.backend import GraphFiles, Step
from bestow_edge.runtime.devices.tensorrt.ahead import ALL, build_ahead, parse_capabilities
from bestow_edge.runtime.devices.tensorrt.engine_graph import EngineGraph
from bestow_edge.runtime.devices.tensorrt.engines import Settings
from bestow_edge.runtime.devices.tensorrt.library import Library
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.golden import verify


@contextmanager
def shown(_name: str) -> Iterator[Step]:
    yield lambda *_: True


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with an RTX card of capability 8.6 and TensorRT for RTX."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(FakeRuntime, "capability", (8, 6))
    module = fake_tensorrt(RTX)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    install_cuda(monkeypatch)
    return module


@pytest.fixture
def bundle(tensorrt_bundle: Path, trt: Any, tmp_path: Path) -> Path:
    """A copy of the bundle with engines for all cards."""
    copy = tmp_path / "copy"
    shutil.copytree(tensorrt_bundle, copy)
    build(copy, trt)
    return copy


def build(directory: Path, trt: Any, capabilities: tuple[str, ...] = ALL) -> BundleManifest:
    files = GraphFiles(directory=directory, manifest=read_manifest(directory))
    manifest = build_ahead(files, Library(trt, rtx=True), capabilities, Settings(), shown)
    write_manifest(manifest, directory)
    return manifest


def texts(model: Model, speech: np.ndarray) -> list[tuple[str, float]]:
    with model.session(source="en", target="de", k=1) as session:
        events = session.feed(speech) + session.finish()
    return [(event.text, event.end_s) for event in events if isinstance(event, TextEvent)]


def test_engines_of_a_bundle_run_without_a_build(bundle: Path, trt: Any, speech: np.ndarray) -> None:
    built = len(trt._built)
    model = load(bundle, device="rtx:0", threads=1)
    assert model.upgrade is None
    assert isinstance(model.graphs[LLM], EngineGraph)
    assert texts(model, speech) == texts(load(bundle, threads=1), speech) != []
    assert len(trt._built) == built
    assert set(trt._strategies) == {None}


def test_the_manifest_names_them_and_verify_checks_them(bundle: Path, trt: Any) -> None:
    manifest = read_manifest(bundle)
    assert list(manifest.engines) == list(manifest.specs)
    assert {entry.library for entry in manifest.engines.values()} == {RTX}
    assert {entry.capabilities for entry in manifest.engines.values()} == {ALL}
    assert {config._capabilities[4] for config in trt._built} == {trt.ComputeCapability.SM121}
    assert all(row.passed for row in verify(bundle))
    with (bundle / "llm_step.engine").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(BundleError, match=r"llm_step.engine: SHA-256 differs"):
        verify(bundle)


def test_engines_that_are_there_stay(bundle: Path, trt: Any) -> None:
    built = len(trt._built)
    before = read_manifest(bundle)
    assert build(bundle, trt) == before
    assert len(trt._built) == built
    assert build(bundle, trt, ("sm86",)).engines[LLM].capabilities == ("sm86",)
    assert len(trt._built) == built + 3


def altered(bundle: Path, name: str, **fields: str | tuple[str, ...]) -> None:
    manifest = read_manifest(bundle)
    engines = manifest.engines | {name: replace(manifest.engines[name], **fields)}
    write_manifest(replace(manifest, engines=engines), bundle)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("library", "llm_step.engine was built by TensorRT for RTX 1.6.0.1, here is 1.7.1.116"),
        ("card", "llm_step.engine was built for sm89, sm120, this GPU is sm86"),
        ("graph", "llm_step.engine was built from another graph"),
        ("sizes", "llm_step.engine was built for other sizes"),
        ("content", "llm_step.engine: SHA-256 differs"),
        ("missing", "llm_step.engine: the file is missing"),
        ("unlisted", "does not list 'other.engine' under files"),
        ("header", "llm_step.engine is refused: MALFORMED_ENGINE"),
        ("refused", "encoder_chunk: TensorRT for RTX 1.7.1.116 cannot load the engine"),
    ],
)
def test_the_onnx_graphs_serve_where_engines_do_not_fit(
    bundle: Path, trt: Any, speech: np.ndarray, caplog: pytest.LogCaptureFixture, wrong: str, message: str
) -> None:
    if wrong in ("content", "header"):
        _damage(bundle / "llm_step.engine", first=wrong == "header")
    if wrong == "header":  # a malformed engine whose hash is right
        write_manifest(_with_hash(bundle, "llm_step.engine"), bundle)
    changes: dict[str, dict[str, Any]] = {
        "library": {"library": "1.6.0.1"}, "card": {"capabilities": ("sm89", "sm120")}, "graph": {"graph_sha256": "ab"},
        "sizes": {"profiles": "cd"}, "unlisted": {"file": "other.engine"},
    }  # fmt: skip
    if wrong in changes:
        altered(bundle, LLM, **changes[wrong])
    elif wrong == "missing":
        (bundle / "llm_step.engine").unlink()
    elif wrong == "refused":
        header = trt._header
        trt._header = lambda: header() | {"gpu": "changed"}
    trt._hold = lambda _monitor: False  # no engine is built meanwhile
    with caplog.at_level("WARNING"):
        model = load(bundle, device="rtx:0", threads=1)
    assert caplog.text.count("engines of the bundle are not used: ") == 1
    assert message in caplog.text
    assert model.device.name == "cpu"  # this onnxruntime has no CUDA provider
    assert texts(model, speech) == texts(load(bundle, threads=1), speech) != []
    assert model.upgrade is not None
    model.upgrade.stop()


def _damage(path: Path, *, first: bool) -> None:
    content = bytearray(path.read_bytes())
    content[0 if first else -1] ^= 1
    path.write_bytes(content)


def _with_hash(bundle: Path, name: str) -> BundleManifest:
    from bestow_edge.core.files import sha256

    manifest = read_manifest(bundle)
    files = [replace(e, sha256=sha256(bundle / name)) if e.path == name else e for e in manifest.files]
    return replace(manifest, files=tuple(files))


def test_without_engines_in_the_bundle_they_are_built_for_this_card(
    tensorrt_bundle: Path, trt: Any, speech: np.ndarray
) -> None:
    model = load(tensorrt_bundle, device="rtx:0", threads=1)
    assert model.upgrade is not None
    assert model.upgrade.wait(60)
    assert [list(config._capabilities.values()) for config in trt._built] == [[trt.ComputeCapability.SM86]] * 3
    assert load(tensorrt_bundle, device="rtx:0", threads=1).upgrade is None
    assert texts(model, speech) == texts(load(tensorrt_bundle, threads=1), speech)


def test_kernels_are_kept_and_cuda_graphs_are_asked_for(
    bundle: Path, trt: Any, tmp_path: Path, speech: np.ndarray
) -> None:
    model = load(bundle, device="rtx:0,graphs", threads=1)
    texts(model, speech[:16000])
    assert set(trt._strategies) == {trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE}
    del model
    gc.collect()
    kept = sorted((tmp_path / "bestow-edge" / "engines").glob("*.cache"))
    assert [path.name.partition("-")[0] for path in kept] == ["adapter_step", "encoder_chunk", "llm_step"]
    assert all(path.read_bytes().startswith(b"kernel") for path in kept)
    kept[0].write_bytes(b"of another driver")
    texts(load(bundle, device="rtx:0", threads=1), speech[:16000])


def test_engines_of_a_stranger_can_be_left_out(bundle: Path, trt: Any) -> None:
    built = len(trt._built)
    model = load(bundle, device="rtx:0,own", threads=1)
    assert model.upgrade is not None
    assert model.upgrade.wait(60)
    assert len(trt._built) == built + 3


def test_a_card_that_the_library_does_not_know(bundle: Path, trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRuntime, "capability", (9, 0))
    with pytest.raises(EngineError, match=r"Fake GPU, sm90: not among sm75, .*; use --device tensorrt:0"):
        load(bundle, device="rtx:0")
    assert trt._built


def test_capabilities_in_words() -> None:
    assert parse_capabilities("all") == ALL
    assert parse_capabilities("sm120,sm75") == ("sm75", "sm120")
    assert parse_capabilities("all,sm75") == ("sm75", *ALL)
    with pytest.raises(ConfigError, match=r"capability 'sm90': expected sm75, .* or all; Hopper and Jetson need"):
        parse_capabilities("sm86,sm90")
