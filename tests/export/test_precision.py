"""Precisions as users ask for them."""

from collections.abc import Callable

import pytest

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.export.precision import LARGE_LLM, parse_precisions

Configs = Callable[..., ModelConfig]


def test_defaults_depend_on_the_size_of_the_llm() -> None:
    assert parse_precisions(None, LARGE_LLM - 1) == {"encoder": "int8", "connector": "int8", "llm": "int8"}
    assert parse_precisions(None, LARGE_LLM) == {"encoder": "int8", "connector": "int8", "llm": "int4"}


def test_one_for_all_and_one_for_each() -> None:
    assert set(parse_precisions("fp16", 0).values()) == {"fp16"}
    assert parse_precisions("llm=int4,encoder=fp32", 0) == {"encoder": "fp32", "connector": "int8", "llm": "int4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int3", "precision 'int3': expected one of fp32, fp16, int8, int4, or a list such as encoder=int8"),
        ("decoder=int8", "expected one of"),
        ("encoder=int8,", "expected one of"),
        ("int4", "the encoder comes in fp32, fp16, int8"),
        ("encoder=int4", "the encoder comes in fp32, fp16, int8"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_precisions(text, 0)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_graphs_belong_to_parts(model_config: Configs, bidirectional_config: Configs, bidirectional: bool) -> None:
    config = bidirectional_config() if bidirectional else model_config()
    parts = {name: spec.part for name, spec in graph_specs(config).items()}
    assert parts == {WINDOW if bidirectional else ENCODER: "encoder", ADAPTER: "connector", LLM: "llm"}
