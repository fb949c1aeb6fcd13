"""Sessions on TensorRT engines, which the fake module runs in onnxruntime, on a GPU whose memory is the host's."""

import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeRuntime, install_cuda
from fake_onnxruntime import install_onnxruntime
from fake_tensorrt import VERSIONS, fake_tensorrt

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.comparison import relative_error
from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import BundleError, ConfigError, EngineError
from bestow_edge.core.policy import Offline
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.runtime import TextEvent, load
from bestow_edge.runtime.devices.backend import GraphFiles
from bestow_edge.runtime.devices.cuda import CudaDevice
from bestow_edge.runtime.devices.tensorrt.engine_graph import EngineGraph, open_engines
from bestow_edge.runtime.devices.tensorrt.library import Library
from bestow_edge.runtime.devices.tensorrt.serving import open_interim
from bestow_edge.runtime.model import Model

Texts = list[tuple[str, float]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bestow-edge" / "engines"


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU and TensorRT, and no engines yet."""
    assert not store.exists()
    module = fake_tensorrt(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    install_cuda(monkeypatch)
    return module


def on_engines(bundle: Path) -> Model:
    """Return a model on engines, built if need be."""
    model = load(bundle, device="tensorrt:0", threads=1)
    assert model.upgrade is None or model.upgrade.wait(60)
    assert model.upgrade is None or model.upgrade.error is None
    assert isinstance(model.graphs[LLM], EngineGraph)
    return model


def texts(model: Model, speech: np.ndarray, **options: Any) -> Texts:
    with model.session(source="en", target="de", **({"k": 1} | options)) as session:
        events = session.feed(speech) + session.finish()
    return [(event.text, event.end_s) for event in events if isinstance(event, TextEvent)]


def test_every_graph_gives_what_onnxruntime_gives(tensorrt_bundle: Path, trt: Any) -> None:
    engines, plain = on_engines(tensorrt_bundle), load(tensorrt_bundle, threads=1)
    sources = graph_sources(engines.config)
    for name, graph in engines.graphs.items():
        reference = plain.graphs[name]
        for case, feeds in sources[name].cases(graph.spec):
            if graph.spec.name == ENCODER and feeds["mel"].shape[0] > 1:
                continue  # a session's encoder hears one stream
            runner, expected = graph.runner(), reference.runner()
            runner.bind(feeds)
            expected.bind(feeds)
            names = graph.spec.output_names
            out = dict(zip(names, graph.device.get(*(runner.run()[name] for name in names)), strict=True))
            assert relative_error(out, expected.run()) == 0, (graph.spec.name, case)
    assert trt._contexts


def test_a_session_writes_what_onnxruntime_writes(tensorrt_bundle: Path, trt: Any, speech: np.ndarray) -> None:
    engines, plain = on_engines(tensorrt_bundle), load(tensorrt_bundle, threads=1)
    before = len(trt._contexts)
    assert texts(engines, speech) == texts(plain, speech) != []
    assert len(trt._contexts) - before <= 2 + 2 + 2, "encoder: whole chunks and the last; a token and the prompt each"
    segments = SegmentConfig(max_s=3)
    assert texts(engines, speech, segments=segments) == texts(plain, speech, segments=segments)
    beam = {"k": None, "policy": Offline(), "beam_size": 3}
    assert texts(engines, speech[:32000], **beam) == texts(plain, speech[:32000], **beam)


def test_engines_are_found_again(tensorrt_bundle: Path, trt: Any, store: Path) -> None:
    on_engines(tensorrt_bundle)
    assert len(trt._built) == 3
    model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    assert model.upgrade is None, "nothing to build"
    assert isinstance(model.graphs[ENCODER], EngineGraph)
    assert len(trt._built) == 3
    assert len(list(store.glob("*.engine"))) == 3


@pytest.mark.parametrize("version", VERSIONS[:1])
def test_engines_of_another_gpu_or_tensorrt_are_never_loaded(
    tensorrt_bundle: Path, store: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install_cuda(monkeypatch)
    for count, module in enumerate((fake_tensorrt(version), fake_tensorrt(VERSIONS[1])), 1):
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        on_engines(tensorrt_bundle)
        assert len(list(store.glob("*.engine"))) == 3 * count
        assert len(module._built) == 3


@pytest.mark.parametrize("damage", ["bytes", "refused"])
def test_a_damaged_or_refused_engine_is_built_again(tensorrt_bundle: Path, trt: Any, store: Path, damage: str) -> None:
    on_engines(tensorrt_bundle)
    if damage == "bytes":
        (engine,) = store.glob(f"{LLM}-*.engine")
        engine.write_bytes(engine.read_bytes()[:-1])
    else:  # as after a change that the key does not know of
        header = trt._header
        trt._header = lambda: header() | {"gpu": "changed"}
    on_engines(tensorrt_bundle)
    assert len(trt._built) == (4 if damage == "bytes" else 6)
    assert load(tensorrt_bundle, device="tensorrt:0", threads=1).upgrade is None


class Held:
    """Lets a build go on when it is told to."""

    def __init__(self, trt: Any) -> None:
        self.release = Event()
        trt._hold = self.wait

    def wait(self, monitor: Any) -> bool:
        while not self.release.wait(0.01):
            if not monitor.step_complete("waiting", 0):
                return False
        return True


def test_others_serve_meanwhile_and_engines_take_over_at_a_segments_border(
    tensorrt_bundle: Path, trt: Any, speech: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(trt)
    segments = SegmentConfig(max_s=3)
    expected = texts(load(tensorrt_bundle, threads=1), speech, segments=segments)
    with caplog.at_level("INFO"):
        model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    assert "the CPU serves meanwhile" in caplog.text  # this onnxruntime has no CUDA provider
    assert model.device.name == "cpu"
    got = []
    with model.session(source="en", target="de", k=1, segments=segments) as session:
        got += session.feed(speech[:16000])
        assert model.upgrade is not None
        assert model.upgrade.running
        held.release.set()
        assert model.upgrade.wait(60)
        assert model.device.name == "cuda:0"
        assert not trt._runs, "the segment goes on where it began"
        got += session.feed(speech[16000:])
        assert trt._runs
        assert session.segment_start_s > 0
        got += session.finish()
    assert [(event.text, event.end_s) for event in got if isinstance(event, TextEvent)] == expected


def test_a_build_stops_when_it_is_told_to(tensorrt_bundle: Path, trt: Any) -> None:
    Held(trt)
    model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    assert model.upgrade is not None
    model.upgrade.stop()
    assert not model.upgrade.running
    assert model.upgrade.error is None
    assert model.device.name == "cpu"


def test_a_build_that_fails_leaves_the_others_serving(
    tensorrt_bundle: Path, trt: Any, speech: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    trt._failing = True
    model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    assert model.upgrade is not None
    assert model.upgrade.wait(60)
    assert isinstance(model.upgrade.error, EngineError)
    assert "no TensorRT engines: encoder_chunk: TensorRT" in caplog.text
    assert texts(model, speech) == texts(load(tensorrt_bundle, threads=1), speech)


def test_what_serves_first_is_the_fastest_that_can(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = GraphFiles(directory=tiny_bundle, manifest=read_manifest(tiny_bundle))
    gpu = CudaDevice(0, runtime=FakeRuntime())
    install_onnxruntime(monkeypatch)
    assert {graph.device.name for graph in open_interim(files, gpu).values()} == {"cuda:0"}
    install_onnxruntime(monkeypatch, cuda=False)
    assert {graph.device.name for graph in open_interim(files, gpu).values()} == {"cpu"}
    with pytest.raises(BundleError):
        open_interim(replace(files, directory=tiny_bundle / "none"), gpu)


def test_a_run_outside_the_profiles_says_what_to_do(tensorrt_bundle: Path, trt: Any) -> None:
    model = on_engines(tensorrt_bundle)
    with pytest.raises(EngineError, match=r"adapter_step: batch 9, its engine was built for 1 to 5; .*--rows 9"):
        model.multi_session([("en-de", Offline())] * 9)
    assert trt._built


def test_an_engine_that_is_not_the_graphs(tensorrt_bundle: Path, trt: Any) -> None:
    on_engines(tensorrt_bundle)
    manifest, gpu = read_manifest(tensorrt_bundle), CudaDevice(0, runtime=FakeRuntime())
    model = load(tensorrt_bundle, device="tensorrt:0", threads=1)
    profiles = {graph.spec.name: graph.profiles for graph in model.graphs.values() if isinstance(graph, EngineGraph)}
    plans, library = _plans(trt, tensorrt_bundle), Library(trt, rtx=False)
    with pytest.raises(EngineError, match=r"llm_step: the engine's .* is not the graph's; build it again"):
        open_engines(library, {LLM: plans[ADAPTER]}, manifest.specs, profiles, gpu, kernels={})
    with pytest.raises(EngineError, match="llm_step: the engine has 2 profiles, expected 1"):
        open_engines(library, {LLM: plans[LLM]}, manifest.specs, profiles | {LLM: profiles[LLM][:1]}, gpu, kernels={})
    with pytest.raises(EngineError, match=f"llm_step: TensorRT {trt.__version__} cannot load the engine"):
        open_engines(library, {LLM: b"damaged"}, manifest.specs, profiles, gpu, kernels={})


def _plans(trt: Any, bundle: Path) -> dict[str, bytes]:
    from bestow_edge.runtime.devices.tensorrt.engine_store import EngineStore, default_directory
    from bestow_edge.runtime.devices.tensorrt.engines import BundleEngines
    from bestow_edge.runtime.devices.tensorrt.library import this_machine

    library = Library(trt, rtx=False)
    machine = this_machine(library, CudaDevice(0, runtime=FakeRuntime()))
    store = EngineStore(default_directory())
    files = GraphFiles(directory=bundle, manifest=read_manifest(bundle))
    return BundleEngines(files, library, machine, store).load()


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("set_input_shape", r"encoder_chunk: TensorRT refuses mel of shape"),
        ("set_tensor_address", r"encoder_chunk: TensorRT refuses the address of"),
        ("execute_async_v3", r"encoder_chunk: TensorRT could not run the engine"),
        ("set_optimization_profile_async", r"encoder_chunk: TensorRT refuses the profile frames_8"),
    ],
)
def test_what_tensorrt_refuses_at_run_time(tensorrt_bundle: Path, trt: Any, refuse: str, message: str) -> None:
    model = on_engines(tensorrt_bundle)
    trt._refused = {refuse}
    encoder = model.graphs[ENCODER]
    cases = graph_sources(model.config)[ENCODER].cases(encoder.spec)
    feeds = next(feeds for _, feeds in cases if feeds["mel"].shape[1] == 8)
    runner = encoder.runner()
    runner.bind(feeds)
    with pytest.raises(EngineError, match=message):
        runner.run()


def test_addresses_are_told_when_they_change(tensorrt_bundle: Path, trt: Any, speech: np.ndarray) -> None:
    model = on_engines(tensorrt_bundle)
    texts(model, speech)
    runs = len(trt._runs)
    specs = [graph.spec for graph in model.graphs.values()]
    tensors = sum(len(spec.input_names) + len(spec.output_names) for spec in specs) / len(specs)
    assert 0 < trt._calls["set_tensor_address"] < runs * tensors / 2, "most runs find their buffers where they were"


@pytest.mark.parametrize("device", ["tensorrt:x", "tensorrt:0,rows=many", "tensorrt:0,graphs"])
def test_devices_that_are_none(tensorrt_bundle: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        load(tensorrt_bundle, device=device)
