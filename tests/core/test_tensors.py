"""Graph contracts: names and axes for given configs."""

from collections.abc import Callable

import pytest

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.graphs import graph_specs
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.cross_adapter import adapter_spec
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.llm import llm_spec
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.core.tensors import TensorSpec

Configs = Callable[..., ModelConfig]


def axes(tensors: tuple[TensorSpec, ...]) -> dict[str, tuple[str | int, ...]]:
    return {tensor.name: tensor.axes for tensor in tensors}


def test_encoder(model_config: Configs) -> None:
    spec = graph_specs(model_config())[ENCODER]
    assert axes(spec.inputs)["mel"] == ("batch", "frames", 80)
    outputs = axes(spec.outputs)
    assert outputs["cross_keys"] == outputs["cross_values"] == (2, "batch", 2, "steps", 32)
    states = axes(spec.states)
    assert [states[f"subsampling_cache_{stage}"] for stage in range(3)] == [
        ("batch", 1, 1, 80),
        ("batch", 8, 1, 41),
        ("batch", 8, 1, 21),
    ]
    for layer in range(2):
        for kind in ("keys", "values"):
            assert axes(spec.inputs)[f"cache_{kind}_{layer}"] == ("batch", 4, 70 + 2 * 14, 16)
            assert outputs[f"new_{kind}_{layer}"] == ("batch", 4, "steps", 16)
        assert states[f"conv_cache_{layer}"] == ("batch", 64, 8)
    assert len(states) == 3 + 2
    assert spec.input_names[:4] == ["mel", "frame_start", "frame_end", "past_steps"]
    assert spec.output_names[2 + 4 :] == [f"next_{name}" for name in states]


def test_bidirectional_encoder(bidirectional_config: Configs, model_config: Configs) -> None:
    config = bidirectional_config()
    assert list(graph_specs(config)) == [WINDOW, ADAPTER, LLM]
    spec = graph_specs(config)[WINDOW]
    assert spec.name == WINDOW
    assert not spec.states
    assert axes(spec.inputs) == {"mel": ("batch", "frames", 80), "frame_end": ("batch",)}
    assert spec.outputs == graph_specs(model_config())[ENCODER].outputs[:2]  # the adapter takes both


def test_adapter_with_attention(model_config: Configs) -> None:
    spec = adapter_spec(model_config())
    assert not spec.states
    assert axes(spec.inputs)["memory_keys_1"] == (2, "memory", 32)
    assert axes(spec.inputs)["cache_values_1"] == ("batch", 2, "capacity", 32)
    assert axes(spec.outputs)["new_keys_0"] == ("batch", 2, "tokens", 32)
    assert axes(spec.outputs)["inputs_embeds"] == ("batch", "tokens", 48)
    assert axes(spec.outputs)["alignment"] == (2, "batch", "tokens", "memory_and_null")


def test_adapter_with_lstm(model_config: Configs) -> None:
    spec = adapter_spec(model_config(text_mixer="lstm", num_layers=1))
    assert axes(spec.states) == dict.fromkeys(["lstm_hidden", "lstm_cell"], (2, "batch", 64))
    assert "past_tokens" not in spec.input_names
    assert spec.output_names == ["inputs_embeds", "alignment", "next_lstm_hidden", "next_lstm_cell"]


def test_llm_reads_head_sizes_from_its_config() -> None:
    llm = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 9}
    assert axes(llm_spec(llm).inputs)["cache_keys_1"] == ("batch", 4, "capacity", 12)
    grouped = llm | {"num_key_value_heads": 2, "head_dim": 20}
    assert axes(llm_spec(grouped).outputs)["new_values_0"] == ("batch", 2, "tokens", 20)
    assert axes(llm_spec(grouped).outputs)["logits"] == ("batch", 9)


def test_adapter_without_a_text_mixer_has_no_state(model_config: Configs) -> None:
    spec = adapter_spec(model_config(text_mixer="none"))
    assert spec.states == ()
    assert "past_tokens" not in spec.input_names
    assert spec.output_names == ["inputs_embeds", "alignment"]


@pytest.mark.parametrize("variant", [{}, {"text_mixer": "lstm", "num_layers": 1}, {"text_mixer": "none"}])
def test_names_are_unique(model_config: Configs, variant: dict[str, object]) -> None:
    specs = graph_specs(model_config(**variant))
    assert list(specs) == [ENCODER, ADAPTER, LLM]
    for name, spec in specs.items():
        assert spec.name == name
        assert len(set(spec.input_names)) == len(spec.input_names)
        assert len(set(spec.output_names)) == len(spec.output_names)
        assert not set(spec.input_names) & set(spec.output_names)
        assert {tensor.dtype for tensor in (*spec.inputs, *spec.states)} <= {"float32", "int64"}


def test_a_tensor_is_printed_with_its_axes() -> None:
    assert str(TensorSpec("mel", "float32", ("batch", 80))) == "mel: float32 (batch, 80)"


@pytest.mark.parametrize("mixer", ["attention", "lstm", "none"])
def test_sizes_of_outputs_follow_from_the_inputs(model_config: Configs, mixer: str) -> None:
    for spec in graph_specs(model_config(text_mixer=mixer, num_layers=1)).values():
        given = {axis for tensor in (*spec.inputs, *spec.states) for axis in tensor.axes if isinstance(axis, str)}
        needed = {axis for tensor in spec.outputs for axis in tensor.axes if isinstance(axis, str)}
        assert needed <= set(spec.output_sizes(dict.fromkeys(given, 8))), spec.name
    encoder, adapter, _ = graph_specs(model_config()).values()
    assert encoder.output_sizes({"frames": 56})["steps"] == 7
    assert adapter.output_sizes({"memory": 64})["memory_and_null"] == 65
