"""The real TensorRT for RTX, on the CPU: it reads and builds the graphs of every kind of encoder and connector.

A machine without a GPU cannot run the engines; test_ahead.py has sessions with a stand-in.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from fake_tensorrt import RTX, SURFACES
from onnx import TensorProto, helper

from bestow_edge.core.bundle import BundleManifest, GraphEntry, list_files
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import EngineError, ExportError
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import in_float16
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.export.rewriting.float16 import to_half
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.rewriting.int4 import store_int4
from bestow_edge.export.rewriting.tensorrt_rules import check_ready
from bestow_edge.export.tracing import sample_inputs, save_graph, trace_graph
from bestow_edge.runtime.devices.backend import GraphFiles, Step
from bestow_edge.runtime.devices.tensorrt.ahead import build_ahead
from bestow_edge.runtime.devices.tensorrt.building import BuildCancelledError, Options, build_engine
from bestow_edge.runtime.devices.tensorrt.engines import Settings
from bestow_edge.runtime.devices.tensorrt.library import Library, import_library
from bestow_edge.runtime.devices.tensorrt.profiles import profiles

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("TensorRT for RTX is not installed: pip install 'bestow-edge[rtx]'", allow_module_level=True)

CARDS = ("sm75", "sm86", "sm120")  # Turing, Ampere, Blackwell in one engine
QUICK = Settings(options=Options(level=0))


@pytest.fixture(scope="module")
def library() -> Library:
    return import_library("rtx")


@contextmanager
def shown(_name: str) -> Iterator[Step]:
    yield lambda *_: True


def write_graphs(model: Any, directory: Path) -> GraphFiles:
    """Write a model's graphs as `export --target rtx` does, without its comparisons."""
    config: ModelConfig = model.config
    directory.mkdir()
    (directory / "tokenizer.json").write_text("{}")
    graphs = {}
    for name, source in graph_sources(config).items():
        with source.build(model) as module:
            graph = trace_graph(module, source.spec, sample_inputs(source.spec))
        save_graph(graph, directory.parent / f"{name}.onnx")  # float32
        fuse(graph, "rtx")
        to_half(graph, in_float16(source.spec))
        check_ready(graph)
        save_graph(graph, directory / f"{name}.onnx")
        graphs[name] = GraphEntry(file=f"{name}.onnx", precision="fp16")
    manifest = BundleManifest(
        model=config,
        target="rtx",
        graphs=graphs,
        prompts=dict.fromkeys(config.pairs, (1,)),
        end_ids=(2,),
        max_text_tokens=config.max_text_tokens,
        files=list_files(directory),
        parity=(),
        quantization=None,
        tools={},
        checkpoint_sha256="",
    )
    return GraphFiles(directory=directory, manifest=manifest)


def model_of(kind: str, config: Any, bidirectional: Any, make_model: Callable[..., Any], folder: Path) -> Any:
    """Return a tiny random model of a kind."""
    from bestow_edge.model.checkpoint import load_checkpoint
    from bestow_edge.model.pretrained.components import WholeRequest
    from bestow_edge.model.pretrained.whole import init_whole

    if kind == "interleave":
        from interleaved import interleaved_config

        return make_model(interleaved_config(config))
    if kind == "prepend":
        from speech_llms import VARIANTS, speech_config

        return make_model(speech_config(bidirectional, VARIANTS["conformer"][1]))
    if kind == "cross_layers":
        from tiny_whisper import save_whisper as save
    else:
        from tiny_qwen3_asr import save_qwen3_asr as save
    request = WholeRequest(source=str(save(folder)))
    init_whole(request, folder.with_name("checkpoint"), progress=lambda _: None)
    return load_checkpoint(folder.with_name("checkpoint")).eval()


@pytest.fixture(scope="module")
def plain(
    model_config: Callable[..., ModelConfig], make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> GraphFiles:
    """The graphs of a cache-aware encoder, a cross-attention adapter and an LLM."""
    return write_graphs(make_model(small(model_config())), tmp_path_factory.mktemp("plain") / "bundle")


def small(config: ModelConfig) -> ModelConfig:
    """Return a config whose encoder has one layer."""
    network = config.encoder.network | {"num_hidden_layers": 1}
    return replace(config, encoder=replace(config.encoder, network=network))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross_layers", "prepend", "interleave", "qwen3_asr"])
def test_every_kind_builds_for_three_cards(
    model_config: Callable[..., ModelConfig],
    bidirectional_config: Callable[..., ModelConfig],
    make_model: Callable[..., Any],
    library: Library,
    tmp_path: Path,
    kind: str,
) -> None:
    model = model_of(kind, small(model_config()), small(bidirectional_config()), make_model, tmp_path / "model")
    files = write_graphs(model, tmp_path / "bundle")
    built = build_ahead(files, library, CARDS, QUICK, shown)
    assert list(built.engines) == list(files.manifest.specs)
    assert all(entry.size > 10_000 for entry in built.engine_files())


def test_a_bundle_builds_and_its_engines_are_whole(plain: GraphFiles, library: Library) -> None:
    told: list[str] = []

    @contextmanager
    def told_of(name: str) -> Iterator[Step]:
        yield lambda phase, _done, _total: told.append(f"{name}: {phase}") is None

    manifest = build_ahead(plain, library, CARDS, QUICK, told_of)
    assert {name.partition(":")[0] for name in told} == set(manifest.specs)
    assert {entry.capabilities for entry in manifest.engines.values()} == {CARDS}
    assert build_ahead(replace(plain, manifest=manifest), library, CARDS, QUICK, shown) == manifest
    engine = plain.directory / manifest.engines[LLM].file
    assert library.problem_of(engine) == ""
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    assert library.problem_of(engine) == "llm_step.engine is refused: MALFORMED_ENGINE"


def build_llm(plain: GraphFiles, library: Library, path: Path, card: str, *, going_on: bool = True) -> memoryview:
    spec = plain.manifest.specs[LLM]
    known = profiles(spec, plain.manifest, QUICK.bounds)
    step: Step = lambda *_: going_on  # noqa: E731 - a function of one line
    return build_engine(library, path, spec, known, QUICK.options, capabilities=(card,), step=step).plan


def test_int4_weights_build_from_ampere_on(plain: GraphFiles, library: Library, tmp_path: Path) -> None:
    graph = ir.load(plain.directory.parent / f"{LLM}.onnx")
    fuse(graph, "rtx")
    store_int4(graph, "rtx")
    to_half(graph, plain.manifest.specs[LLM])
    check_ready(graph)
    path = tmp_path / "llm.onnx"
    save_graph(graph, path)
    onnx.checker.check_model(path, full_check=True)
    assert build_llm(plain, library, path, "sm86").nbytes > 100_000
    with pytest.raises(EngineError, match=r"llm_step: TensorRT for RTX .* built no engine"):
        build_llm(plain, library, path, "sm75")


def test_a_build_stops_when_it_is_told_to(plain: GraphFiles, library: Library) -> None:
    with pytest.raises(BuildCancelledError, match="llm_step: the build was stopped"):
        build_llm(plain, library, plain.directory / f"{LLM}.onnx", "sm86", going_on=False)


def test_an_operator_that_the_library_lacks_is_refused(plain: GraphFiles, library: Library, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in "xy"]
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_model(helper.make_graph([node], "odd", value[:1], value[1:]), opset_imports=domains)
    path = tmp_path / "odd.onnx"
    onnx.save(graph, path)
    with pytest.raises(
        EngineError, match=r"odd.onnx: TensorRT for RTX [\d.]+ cannot read it: QuickGelu: .*Plugin not found"
    ):
        build_llm(plain, library, path, "sm86")
    with pytest.raises(ExportError, match=r"odd: com.microsoft; TensorRT reads standard operators"):
        check_ready(ir.load(path))


def test_the_names_of_the_stand_in_are_those_of_the_library(library: Library) -> None:
    known = json.loads((SURFACES / f"{RTX}.json").read_text())["classes"]
    if library.version != RTX:
        pytest.skip(f"TensorRT for RTX {library.version} is installed, the names are those of {RTX}")
    for name, members in known.items():
        for member in members.get("members", []) + members.get("enum", []):
            assert hasattr(getattr(library.trt, name), member), f"{name}.{member}"
