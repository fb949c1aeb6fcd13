"""Model configuration: ranges, what the parts need of each other, JSON round trip."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.config import FeatureConfig, ModelConfig, PolicyConfig, SegmentConfig
from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.json_text import read_json
from bestow_edge.core.specs import prepend
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.prepend import PrependConfig, QformerConfig
from bestow_edge.core.specs.windowed import WindowedConfig

ENCODER = {"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 64, "num_mel_bins": 80}
PARAKEET = {"model_type": "parakeet_encoder", "hidden_size": 64, "num_mel_bins": 80}
WHISPER = {"model_type": "whisper", "hidden_size": 64}
LLM = {"model_type": "llama", "hidden_size": 48}
QFORMER = QformerConfig(num_queries=4, num_layers=1, num_heads=2)
PER_FEATURE = FeatureConfig(normalize="per_feature")


def chunked(**values: Any) -> ChunkedConfig:
    """Return a cache-aware encoder."""
    return ChunkedConfig(**({"network": ENCODER} | values))


def windowed(**values: Any) -> WindowedConfig:
    """Return a bidirectional encoder."""
    return WindowedConfig(**({"network": PARAKEET} | values))


def model(**values: Any) -> ModelConfig:
    """Return a model with a cache-aware encoder."""
    return ModelConfig(**({"encoder": chunked(), "llm": LLM, "connector": CrossAdapterConfig()} | values))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureConfig(hop_samples=500), "hop_samples <= window_samples <= n_fft, got 500, 400, 512"),
        (lambda: FeatureConfig(window_samples=600), "got 160, 600, 512"),
        (lambda: CrossAdapterConfig(num_layers=0), "num_layers, width, num_heads and ffn_factor must be at least 1"),
        (lambda: CrossAdapterConfig(width=10, num_heads=4), "width 10 is not a multiple of num_heads 4"),
        (lambda: CrossAdapterConfig(num_heads=0), "must be at least 1"),
        (lambda: CrossAdapterConfig(text_mixer="lstm", num_layers=2), "set num_layers: 1"),
        (lambda: chunked(left_context=0), "left_context must be at least 1, got 0"),
        (lambda: chunked(default_lookahead=5), r"default_lookahead 5 is not in \(13, 6, 1, 0\)"),
        (lambda: chunked(lookaheads=(13, 3)), "chunk of 4 steps does not divide left_context 70"),
        (lambda: chunked(lookaheads=(13, -1)), "chunk of 0 steps"),
        (lambda: windowed(block=0), "block must be at least 1, right_context and padding at least 0, got block=0"),
        (lambda: windowed(right_context=-1), "got block=4, right_context=-1"),
        (lambda: windowed(window=16), r"window 16 is below block \+ right_context, which are 17"),
        (
            lambda: windowed(network=WHISPER, taps=(0,)),
            r"taps \(0,\), but only parakeet_encoder gives outputs of layers, not whisper",
        ),
        (lambda: windowed(network=PARAKEET | {"num_hidden_layers": 2}, taps=(0, 2)), "expected layers from 0 to 1"),
        (lambda: windowed(network=PARAKEET | {"num_hidden_layers": 2}, taps=(-1,)), r"taps \(-1,\); expected layers"),
        (lambda: QformerConfig(num_queries=0, num_layers=1, num_heads=1), "all sizes must be at least 1"),
        (lambda: PrependConfig(speech_token=1, qformer=QFORMER, hidden=8), "leave out hidden, conformer and stack"),
        (
            lambda: prepend.speech(model(connector=PrependConfig(speech_token=1, qformer=QFORMER))),
            "a qformer does not fit this encoder .*; expected a windowed one with taps and right_context 0",
        ),
        (
            lambda: windowed(network=ENCODER),
            "encoder: model_type 'nemotron_asr_streaming_encoder' is not one of kind windowed: parakeet_encoder",
        ),
        (
            lambda: chunked(network=PARAKEET),
            "encoder: model_type 'parakeet_encoder' is not one of kind chunked: nemotron_asr_streaming_encoder",
        ),
        (lambda: chunked(network=ENCODER | {"subsampling_factor": 4}), "subsampling_factor 4; only 8 is supported"),
        (
            lambda: chunked(network=ENCODER | {"sliding_window": 70}),
            "network has sliding_window 70, left_context needs 71",
        ),
        (
            lambda: model(features=PER_FEATURE),
            "normalize 'per_feature' needs all frames at once, but encoder chunked hears them chunk by chunk; set",
        ),
        (lambda: SegmentConfig(silence_s=(0.0, float("nan"))), "silence_s is .*; expected two numbers from 0 to 5"),
        (lambda: SegmentConfig(silence_s=(0.0, 6.0)), r"silence_s is \[0.0, 6.0\]; expected two numbers from 0 to 5"),
        (lambda: SegmentConfig(silence_s=(0.1,)), "silence_s is .*; expected two numbers"),  # type: ignore[arg-type]
        (lambda: PolicyConfig(k=0), "k and l must be at least 1 and threshold at least 0, got k=0, l=4"),
        (lambda: PolicyConfig(l=0), "got k=6, l=0"),
        (lambda: chunked(network={"hidden_size": 1}), "encoder: transformers"),
        (lambda: model(llm={"model_type": "llama"}), "llm: transfor"),
        (
            lambda: model(encoder=chunked(network=ENCODER | {"num_mel_bins": 128})),
            "80 mel bins, but the encoder takes 128",
        ),
    ],
)
def test_bad_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_defaults_are_the_papers() -> None:
    assert (CrossAdapterConfig().num_layers, CrossAdapterConfig().head_dim) == (2, 128)
    assert (PolicyConfig().k, PolicyConfig().l) == (6, 4)
    assert model().step_s == pytest.approx(0.08)
    assert chunked().max_chunk_steps == 14


def test_config_survives_json(model_config: Callable[..., ModelConfig]) -> None:
    config = model_config(prompt_mode="bypass")
    text = json.dumps(config.to_dict())
    again = ModelConfig.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.connector == config.connector
    assert again.pairs == config.pairs
    assert isinstance(again.encoder, ChunkedConfig)
    assert again.encoder.lookaheads == again.encoder.right_contexts == (13, 6, 1, 0)


def test_configs_of_models_without_questions_are_still_read(model_config: Callable[..., ModelConfig]) -> None:
    values = model_config().to_dict()
    assert values.pop("questions") == ()
    assert ModelConfig.from_dict(values).questions == ()
    assert ModelConfig.from_dict(values | {"questions": ["en", "de"]}).questions == ("en", "de")


def test_a_bidirectional_encoder_has_its_sizes_recorded() -> None:
    config = model(encoder=windowed(), features=PER_FEATURE)
    assert config.encoder == windowed(block=4, right_context=13, window=375)
    assert config.encoder.right_contexts == (13,)
    values = json.loads(json.dumps(config.to_dict()))
    assert values["encoder"] == {
        "kind": "windowed",
        "network": PARAKEET,
        "block": 4,
        "right_context": 13,
        "padding": 0,
        "window": 375,
        "taps": [],
    }
    assert values["features"]["normalize"] == "per_feature"
    assert ModelConfig.from_dict(values) == config
    values["encoder"] = {"kind": "windowed", "network": PARAKEET, "block": 2, "right_context": 5}
    assert ModelConfig.from_dict(values).encoder.default_right_context == 5
    values["encoder"]["blok"] = 2
    known = "kind, network, block, right_context, window, padding, taps"
    with pytest.raises(ConfigError, match=rf"config\.encoder: unknown blok; known are {known}"):
        ModelConfig.from_dict(values)
    del values["encoder"]["blok"]
    values["features"]["normalize"] = "per_channel"
    with pytest.raises(ConfigError, match=r"config\.features\.normalize: expected one of none, per_feature"):
        ModelConfig.from_dict(values)


def test_a_cache_aware_encoder_has_none_of_them(model_config: Callable[..., ModelConfig]) -> None:
    config = model_config()
    assert config.encoder.default_right_context == 13
    assert not {"block", "right_context", "window"} & config.to_dict()["encoder"].keys()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", {"kind": None}, r"config\.encoder: kind is missing, expected one of blocks, chunked, windowed"),
        (
            "encoder",
            {"kind": "conformer"},
            r"config\.encoder\.kind: expected one of blocks, chunked, windowed, got str 'conformer'",
        ),
        (
            "encoder",
            {"kind": "cross_adapter"},
            r"config\.encoder\.kind: expected one of blocks, chunked, windowed, got str 'cross_adapter'",
        ),
        ("encoder", {"kind": 3}, r"config\.encoder\.kind: expected one of blocks, chunked, windowed, got int 3"),
        ("encoder", {"window": 375}, r"config\.encoder: unknown window; known are kind, network, left_context"),
        (
            "encoder",
            {"kind": "windowed"},
            r"config\.encoder: unknown left_context, lookaheads, default_lookahead; known",
        ),
        ("connector", {"kind": None}, r"config\.connector: kind is missing, expected one of cross_adapter"),
        (
            "connector",
            {"kind": "append"},
            "expected one of cross_adapter, cross_layers, gated_layers, interleave, prepend, got str 'app",
        ),
        ("connector", {"window": 4}, r"config\.connector: unknown window; known are kind, num_layers, width"),
        ("connector", {"widht": 3}, r"config\.connector: unknown widht; known are kind, num_layers, width"),
    ],
)
def test_an_encoder_or_connector_is_read_by_its_kind(part: str, change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = json.loads(json.dumps(model().to_dict()))
    values[part] = {key: value for key, value in (values[part] | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("part", ["encoder", "llm"])
def test_configs_that_name_kernels_of_the_hub_are_refused(part: str) -> None:
    values: dict[str, Any] = json.loads(json.dumps(model().to_dict()))
    network = values["encoder"]["network"] if part == "encoder" else values["llm"]
    for code in ("someone/kernel", {"": "someone/kernel"}, "flash_attention_2"):
        network["attn_implementation"] = code
        with pytest.raises(
            ConfigError, match=f"{part}: attn_implementation is .*, which may name code; remove the field"
        ):
            ModelConfig.from_dict(values)
    network["attn_implementation"] = "eager"
    ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": NaN}', r"not valid JSON \(NaN is no number\)"),
        (b'{"a": ' + b"[" * 200_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_only_json_objects_are_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_json(path)


def test_config_errors_are_also_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, BestowEdgeError)


def test_positions_of_an_adapter_bound_the_text(model_config: Callable[..., ModelConfig]) -> None:
    config = model_config(positions=40)
    assert config.max_text_tokens == 40
    assert model_config().max_text_tokens == model_config().llm["max_position_embeddings"]
