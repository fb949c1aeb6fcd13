"""Connector kind `prepend` as graphs: operators that every TensorRT 10 reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from speech_llms import VARIANTS, speech_config

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.tensors import in_float16
from bestow_edge.export.graphs.base import graph_sources
from bestow_edge.export.rewriting.float16 import to_half
from bestow_edge.export.rewriting.fusion import fuse
from bestow_edge.export.rewriting.tensorrt_rules import check_ready
from bestow_edge.export.tracing import sample_inputs, trace_graph


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensorrt_reads_the_encoder(
    variant: str,
    make_model: Callable[..., Any],
    model_config: Callable[..., ModelConfig],
    bidirectional_config: Callable[..., ModelConfig],
) -> None:
    encoder, connector = VARIANTS[variant]
    base = {"chunked": model_config, "windowed": bidirectional_config}[encoder]
    model = make_model(speech_config(base(), connector))
    source = next(iter(graph_sources(model.config).values()))
    with source.build(model) as module:
        graph = trace_graph(module, source.spec, sample_inputs(source.spec))
    fuse(graph, "tensorrt")
    to_half(graph, in_float16(source.spec))
    check_ready(graph)
