"""Building engines, with the fake module of both majors: types, profiles, caches, progress, what goes wrong."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import VERSIONS, fake_tensorrt

from bestow_edge.core.bundle import BundleManifest, read_manifest
from bestow_edge.core.errors import BundleIntegrityError, ConfigError, EngineError, MissingExtraError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.runtime.devices.backend import GraphFiles
from bestow_edge.runtime.devices.tensorrt import library
from bestow_edge.runtime.devices.tensorrt.building import BuildCancelledError, Options, build_engine
from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, Machine
from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines, Settings, graph_hash, parse_settings
from bestow_edge.runtime.devices.tensorrt.library import Library
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Any:
    return fake_tensorrt(request.param)


@pytest.fixture
def manifest(tensorrt_bundle: Path) -> BundleManifest:
    return read_manifest(tensorrt_bundle)


@pytest.fixture
def engines(tensorrt_bundle: Path, manifest: BundleManifest, trt: Any, tmp_path: Path) -> BundleEngines:
    machine = Machine(gpu="Fake RTX", driver="1", tensorrt=trt.__version__)
    files = GraphFiles(directory=tensorrt_bundle, manifest=manifest)
    return BundleEngines(files, Library(trt, rtx=False), machine, EngineStore(tmp_path / "store"))


def going_on(_phase: str, _done: int, _total: int) -> bool:
    return True


def test_an_engine_is_built_once_with_the_types_of_the_graph_and_all_profiles(engines: BundleEngines, trt: Any) -> None:
    assert engines.missing() == [ENCODER, ADAPTER, LLM]
    told: list[tuple[str, int, int]] = []
    engines.build(ENCODER, lambda *step: told.append(step) is None)
    assert engines.missing() == [ADAPTER, LLM]
    ((name, plan),) = engines.load().items()
    assert name == ENCODER
    assert trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan) is not None
    assert told == [
        ("Building Engine", 0, 2),
        ("Timing", 0, 1),
        ("Timing", 1, 1),
        ("Building Engine", 1, 2),
        ("Building Engine", 2, 2),
    ]
    (config,) = trt._built
    assert config._limits == {trt.MemoryPoolType.WORKSPACE: 4 << 30}
    assert [shapes["mel"] for shapes in config._profiles] == [
        [[1, 8, 80]] * 3,
        [[1, 16, 80]] * 3,
        [[1, 24, 80], [1, 56, 80], [1, 56, 80]],
        [[1, 64, 80], [1, 112, 80], [1, 112, 80]],
    ]
    assert config._profiles[0]["cache_keys_0"] == [[1, 4, 98, 16]] * 3


def test_timings_are_kept_from_build_to_build(engines: BundleEngines) -> None:
    for name in (ADAPTER, LLM):
        engines.build(name, going_on)
    assert engines.store.kept(engines.machine.digest) == b"+timed+timed"


def test_a_build_that_is_stopped_leaves_nothing(engines: BundleEngines) -> None:
    with pytest.raises(BuildCancelledError, match="llm_step: the build was stopped"):
        engines.build(LLM, lambda phase, done, _: (phase, done) != ("Timing", 1))
    assert not list(engines.store.engines())


def test_a_build_that_fails(engines: BundleEngines, trt: Any) -> None:
    trt._failing = True
    with pytest.raises(
        EngineError, match=f"llm_step: TensorRT {trt.__version__} built no engine; its messages say why"
    ):
        engines.build(LLM, going_on)


def test_a_graph_that_tensorrt_cannot_read(trt: Any, manifest: BundleManifest, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=rf"broken.onnx: TensorRT {trt.__version__} cannot read it: \w+"):
        build_engine(Library(trt, rtx=False), path, manifest.specs[LLM], (), Options(), step=going_on)


def test_a_graph_that_is_not_what_the_manifest_says(
    tensorrt_bundle: Path, manifest: BundleManifest, trt: Any, engines: BundleEngines, tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(tensorrt_bundle, altered)
    graph = altered / "llm_step.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    files = GraphFiles(directory=altered, manifest=manifest)
    other = BundleEngines(files, Library(trt, rtx=False), engines.machine, engines.store)
    with pytest.raises(BundleIntegrityError, match=r"llm_step.onnx: SHA-256 differs"):
        other.build(LLM, going_on)


def test_keys_follow_what_an_engine_depends_on(
    tensorrt_bundle: Path, manifest: BundleManifest, trt: Any, engines: BundleEngines
) -> None:
    for settings in (Settings(bounds=Bounds(rows=2)), Settings(options=Options(level=5))):
        files = GraphFiles(directory=tensorrt_bundle, manifest=manifest)
        other = BundleEngines(files, Library(trt, rtx=False), engines.machine, engines.store, settings)
        assert other.keys[LLM] != engines.keys[LLM]
    key = engines.keys[LLM]
    assert key.precision == "fp16"
    assert key.onnx_sha256 == next(entry.sha256 for entry in manifest.files if entry.path == "llm_step.onnx")
    assert key.machine.tensorrt == trt.__version__


def test_external_data_is_part_of_a_graphs_hash(manifest: BundleManifest) -> None:
    first, second = manifest.files[:2]
    files = (replace(first, path="a.onnx"), replace(second, path="a.onnx.data"))
    assert graph_hash(files, "a.onnx") == f"{first.sha256}+{second.sha256}"
    assert graph_hash(files[:1], "a.onnx") == first.sha256
    with pytest.raises(EngineError, match=r"b.onnx: not among the bundle's files"):
        graph_hash(files, "b.onnx")


def test_a_bundle_for_another_target(tiny_bundle: Path, trt: Any, tmp_path: Path) -> None:
    machine = Machine(gpu="Fake RTX", driver="1", tensorrt=trt.__version__)
    files = GraphFiles(directory=tiny_bundle, manifest=read_manifest(tiny_bundle))
    with pytest.raises(EngineError, match=r"a bundle for cpu, .*export its checkpoint with --target tensorrt or rtx"):
        BundleEngines(files, Library(trt, rtx=False), machine, EngineStore(tmp_path))


def test_settings_in_words() -> None:
    words = ["rows=9", "prompt-tokens=300", "workspace-mb=256", "level=2"]
    expected = Settings(bounds=Bounds(rows=9, prompt_tokens=300), options=Options(workspace_mb=256, level=2))
    assert parse_settings(words) == expected
    assert parse_settings([]) == Settings()
    for word in ("rows", "rows=x", "fp16=1"):
        with pytest.raises(ConfigError, match=f"'{word}': expected rows=NUMBER, prompt-tokens=NUMBER"):
            parse_settings([word])


def test_both_majors_are_taken(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    assert library.import_library("tensorrt") == Library(trt, rtx=False)


def test_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        MissingExtraError, match=r"tensorrt is not installed; run: pip install 'bestow-edge\[tensorrt\]'"
    ):
        library.import_library("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"installed but cannot be loaded: libnvinfer.so.10"):
        library.import_library("tensorrt")


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("tensorrt", "8.6.1", "TensorRT 8.6.1: expected 10 or 11"),
        ("tensorrt", "12.0.0", "TensorRT 12.0.0: expected 10 or 11"),
        ("tensorrt", "dev", "TensorRT dev: expected 10 or 11"),
        ("rtx", "2.0.1", "TensorRT for RTX 2.0.1: expected 1"),
    ],
)
def test_another_major(monkeypatch: pytest.MonkeyPatch, kind: str, version: str, message: str) -> None:
    trt = fake_tensorrt(VERSIONS[0])
    trt.__version__ = version
    monkeypatch.setitem(sys.modules, library.MODULES[kind][0], trt)
    with pytest.raises(EngineError, match=message):
        library.import_library(kind)


def test_messages_of_tensorrt_go_to_the_log(trt: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger = library.trt_logger(trt)
    assert library.trt_logger(trt) is logger, "TensorRT keeps the first for good"
    with caplog.at_level("DEBUG"):
        logger.log(trt.ILogger.ERROR, "out of memory")
        logger.log(trt.ILogger.VERBOSE, "a kernel was tried")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "TensorRT: out of memory")
    ]
