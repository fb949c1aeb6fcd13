"""The `adapter_step` module and graph: token by token = whole sequence, PyTorch = onnxruntime, the ring."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph_files import write_graph
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.specs.cross_adapter import adapter_spec
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.export.graphs.cross_adapter import AdapterStep, visible_slots
from bestow_edge.export.parity import torch_reference
from bestow_edge.model.base import SpeechModel
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {},
    "bypass": {"prompt_mode": "bypass"},
    "lstm": {"text_mixer": "lstm", "num_layers": 1},
    "none": {"text_mixer": "none", "num_layers": 1},
    "decoder": {
        "activation": "gelu",
        "positions": 32,
        "own_embedding": True,
        "residual": False,
        "null_frame": "alone",
        "speech_parts": 4,
    },
    "parts": {"speech_parts": 2},
}
TOLERANCE = 1e-4  # float32 sums in another order, values near 5
Built = tuple[SpeechModel, AdapterStep]


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def built(
    request: pytest.FixtureRequest, model_config: Callable[..., ModelConfig], make_model: Callable[..., Any]
) -> Built:
    """A random model of each variant and the module its graph is traced from."""
    model = make_model(model_config(**request.param))
    return model, AdapterStep(model).eval()


@pytest.fixture(scope="module")
def graph(built: Built, tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    """The variant's graph."""
    model, step = built
    spec = adapter_spec(model.config)
    path = tmp_path_factory.mktemp("adapter") / "adapter_step.onnx"
    write_graph(step, spec, path)
    return OnnxGraph(path, spec, threads=1)


@torch.no_grad()
def token_by_token(
    built: Built, tokens: list[int], visible: list[int], speech: torch.Tensor, prompt: int
) -> torch.Tensor:
    """Prefill `prompt` - 1 tokens, then one at a time, in a memory with unwritten slots and a text cache with slack."""
    model, step = built
    config = model.config.connector
    pairs = zip(*speech_side(model)(speech), strict=True)  # keys and values of each layer
    memory = [torch.nn.functional.pad(part[0], (0, 0, 0, 5), value=9.0) for pair in pairs for part in pair]
    cache_shape = (1, config.num_heads, 20, config.head_dim)
    caches = [torch.full(cache_shape, 9.0) for _ in memory]  # what lies in free slots must not matter
    lstm = [torch.zeros(2, 1, config.width), torch.zeros(2, 1, config.width)]
    past, outs = 0, []
    parts = [(0, prompt - 1)] + [(at, at + 1) for at in range(prompt - 1, len(tokens))]
    for first, last in parts:
        if first == last:
            continue
        states = {"lstm": lstm, "none": [], "attention": [torch.tensor([past]), *caches]}
        state = states[config.text_mixer]
        embeds, alignment, *new = step(
            torch.tensor([tokens[first:last]]),
            torch.tensor([visible[first:last]]),
            torch.tensor([speech.shape[1]]),
            *memory,
            *state,
        )
        outs.append(embeds)
        torch.testing.assert_close(alignment.sum(-1), torch.ones(config.num_layers, 1, last - first))
        heard = alignment[-1, 0, :, :-1] > 0
        assert [int(row.sum()) for row in heard] == visible[first:last]
        bypassed = config.prompt_mode == "bypass" and visible[first] == 0
        if config.text_mixer == "lstm":
            lstm = new
        elif new and not bypassed:
            for cache, tensor in zip(caches, new, strict=True):
                cache[:, :, past : past + last - first] = tensor
            past += last - first
    return torch.cat(outs, 1)


@pytest.mark.parametrize("prompt", [1, 2, 4])
def test_token_by_token_equals_the_whole_sequence(built: Built, prompt: int) -> None:
    model, _ = built
    generator = torch.Generator().manual_seed(prompt)
    speech = torch.randn(1, 11, 64, generator=generator)
    tokens = [5, 9, 250, 17, 33, 8, 299]
    visible = [0] * (prompt - 1) + [min(3 + 2 * index, 11) for index in range(len(tokens) - prompt + 1)]
    got = token_by_token(built, tokens, visible, speech, prompt)
    with torch.no_grad():
        embeddings = model.llm.get_input_embeddings()(torch.tensor([tokens]))
        want, _ = model.connector.align(torch.tensor([tokens]), embeddings, speech, torch.tensor([visible]))
        want = embeddings + want if model.connector.config.residual else want
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("batch", "tokens", "memory", "capacity", "written"),
    [
        (1, 1, 8, 4, 5),
        (2, 6, 16, 9, 40),
        (1, 1, 64, 1, 0),
        (1, 3, 1, 5, 1),
        (1, 7, 128, 64, 128),
        (3, 2, 256, 128, 999),
    ],
)
def test_graph_equals_the_module(
    built: Built, graph: OnnxGraph, batch: int, tokens: int, memory: int, capacity: int, written: int
) -> None:
    _, step = built
    rng = np.random.default_rng(tokens)
    sizes = {"batch": batch, "tokens": tokens, "memory": memory, "capacity": capacity}
    feeds: dict[str, Any] = {}
    for tensor in (*graph.spec.inputs, *graph.spec.states):
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
        feeds[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
    feeds["token_ids"] = rng.integers(0, 300, (batch, tokens))
    feeds["visible_steps"] = max(0, written - 4) + rng.integers(0, 4, (batch, tokens))
    feeds["visible_steps"][0, 0] = 0
    feeds["written_steps"] = np.array([written])
    if "past_tokens" in feeds:
        most = min(capacity, 32) - min(tokens, capacity)  # 32: the positions of one variant
        feeds["past_tokens"] = rng.integers(0, most + 1, batch)
    runner = graph.runner()
    runner.bind(feeds)
    got, want = runner.run(), torch_reference(step, graph.spec)(feeds)
    for name, array in got.items():
        np.testing.assert_allclose(array, want[name], atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


@given(
    num_slots=st.integers(1, 9),
    written=st.integers(0, 40),
    visible=st.lists(st.integers(0, 45), min_size=1, max_size=4),
)
def test_visible_slots_of_a_ring(num_slots: int, written: int, visible: list[int]) -> None:
    """Against a ring filled step by step."""
    got = visible_slots(torch.tensor([visible, visible[::-1]]), torch.tensor([written]), num_slots)
    assert got.shape == (2, len(visible), num_slots)
    ring: list[int | None] = [None] * num_slots
    for step in range(written):
        ring[step % num_slots] = step
    for token, limit in enumerate(visible):
        want = [step is not None and step < limit for step in ring]
        assert got[0, token].tolist() == got[1, len(visible) - 1 - token].tolist() == want


def test_a_graph_holds_no_embedding_that_it_does_not_need(built: Built) -> None:
    """An adapter with embeddings of its own and no residual never reads those of the LLM."""
    model, step = built
    held = {id(weight) for weight in step.parameters()}
    config = model.connector.config
    assert (id(model.llm.get_input_embeddings().weight) in held) == (config.residual or not config.own_embedding)
