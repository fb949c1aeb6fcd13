"""Every check of outputs, fed what it must not pass: NaN, a constant, swapped outputs, a token that does not exist."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bestow_edge.core.bundle import list_files, read_manifest, write_manifest
from bestow_edge.core.errors import GraphError, ParityError, SessionError
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.export.agreement import agreement, answer, read_recordings
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.export.parity import compare
from bestow_edge.runtime import load
from bestow_edge.runtime.assets.recordings import sample_manifest
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph
from bestow_edge.runtime.records.golden import read_golden, record_golden, verify

Change = Callable[[onnx.GraphProto], None]


def replaced(name: str, operator: str, number: float, kind: int = TensorProto.FLOAT) -> Change:
    """Return a change that computes an output anew: from itself and a number."""

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}_before" if item == name else item for item in names]
        graph.initializer.append(helper.make_tensor(f"{name}_number", kind, [], [number]))
        graph.node.append(helper.make_node(operator, [f"{name}_before", f"{name}_number"], [name]))

    return change


def swapped(first: str, second: str) -> Change:
    """Return a change that exchanges two outputs of the same shape."""

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [{first: second, second: first}.get(item, item) for item in names]

    return change


BAD = {
    "NaN": replaced("new_values_1", "Mul", float("nan")),
    "infinity": replaced("logits", "Add", float("inf")),
    "constant": replaced("new_keys_0", "Mul", 0.0),
    "swapped": swapped("new_keys_0", "new_values_0"),
    "token": replaced("token_id", "Add", 10**6, TensorProto.INT64),
}


Spoil = Callable[[str], Path]


@pytest.fixture(scope="module")
def spoiled(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Spoil:
    """Return a function that makes a bundle whose LLM computes something else; its manifest agrees with its files."""

    def make(name: str) -> Path:
        directory = tmp_path_factory.mktemp("bad")
        for path in tiny_bundle.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        model = onnx.load(directory / f"{LLM}.onnx")
        BAD[name](model.graph)
        onnx.save(model, directory / f"{LLM}.onnx")
        write_manifest(replace(read_manifest(directory), files=list_files(directory)), directory)
        return directory

    return make


@pytest.mark.parametrize("name", BAD)
def test_golden_outputs(spoiled: Spoil, name: str) -> None:
    assert {row.graph: row.passed for row in verify(spoiled(name))}[LLM] is False


@pytest.mark.parametrize("name", BAD)
def test_parity(spoiled: Spoil, tiny_bundle: Path, name: str) -> None:
    source = graph_sources(read_manifest(tiny_bundle).model)[LLM]
    runner = OnnxGraph(tiny_bundle / f"{LLM}.onnx", source.spec, threads=1).runner()
    expected = {}
    for case, feeds in source.cases(source.spec):
        runner.bind(feeds)
        expected[case] = {key: array.copy() for key, array in runner.run().items()}
    assert compare(tiny_bundle / f"{LLM}.onnx", source.spec, source, expected, "fp32")
    with pytest.raises(ParityError, match=r"llm_step .* differs from PyTorch by"):
        compare(spoiled(name) / f"{LLM}.onnx", source.spec, source, expected, "fp32")


@pytest.mark.parametrize("name", ["NaN", "infinity"])
def test_golden_outputs_are_recorded_of_numbers_alone(spoiled: Spoil, tiny_bundle: Path, name: str) -> None:
    manifest = read_manifest(tiny_bundle)
    inputs = {graph: read_golden(tiny_bundle, manifest, graph) for graph in manifest.specs}
    assert record_golden(tiny_bundle, manifest, inputs)
    with pytest.raises(ParityError, match="holds NaN or infinity; no bundle was written"):
        record_golden(spoiled(name), manifest, inputs)


@pytest.mark.parametrize("name", ["NaN", "token"])
def test_decisions_on_speech(spoiled: Spoil, tiny_bundle: Path, name: str) -> None:
    good = load(tiny_bundle, threads=1)
    recordings = read_recordings(sample_manifest(), good)[:1]
    texts = [answer(good, recording) for recording in recordings]
    assert agreement(good, recordings, texts) == 1
    with pytest.raises(GraphError, match="llm_step returned token"):
        agreement(load(spoiled(name), threads=1), recordings, texts)


def test_decisions_under_a_policy_that_refuses_tokens() -> None:
    model = load("people", threads=1)
    recordings = read_recordings(sample_manifest(), model)[:1]
    choices = answer(model, recordings[0])
    assert not all(choice.written or choice.token_id in model.manifest.end_ids for choice in choices)
    assert agreement(model, recordings, [choices]) == 1


@pytest.mark.parametrize("name", ["NaN", "token"])
def test_what_is_no_token_ends_the_session(spoiled: Spoil, speech: np.ndarray, name: str) -> None:
    session = load(spoiled(name), threads=1).session(source="en")
    with pytest.raises(GraphError, match="expected a token below 300 and a finite number; check the bundle"):
        session.feed(speech)
    with pytest.raises(SessionError, match="the session was finished"):
        session.feed(speech)


def test_a_graph_that_fails_ends_the_session(tiny_bundle: Path, tmp_path: Path, speech: np.ndarray) -> None:
    for path in tiny_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = onnx.load(tmp_path / f"{LLM}.onnx")
    shape = helper.make_tensor("wrong_shape", TensorProto.INT64, [1], [7])
    model.graph.initializer.append(shape)
    output = "log_prob"
    for node in model.graph.node:
        node.output[:] = ["before" if item == output else item for item in node.output]
    model.graph.node.append(helper.make_node("Reshape", ["before", "wrong_shape"], [output]))
    onnx.save(model, tmp_path / f"{LLM}.onnx")
    write_manifest(replace(read_manifest(tmp_path), files=list_files(tmp_path)), tmp_path)
    with pytest.raises(GraphError, match=r"llm_step failed while it ran \(.*\); check the bundle: bestow-edge verify"):
        list(load(tmp_path, threads=1).session(source="en").feed(speech))
