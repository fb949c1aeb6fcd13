"""Model configuration: ranges, what the parts need of each other, JSON round trip."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bestow_edge.core.config import FeatureConfig, ModelConfig, PolicyConfig, read_json
from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.core.specs.windowed import WindowedConfig

ENCODER = {"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 64, "num_mel_bins": 80}
PARAKEET = {"model_type": "parakeet_encoder", "hidden_size": 64, "num_mel_bins": 80}
LLM = {"model_type": "llama", "hidden_size": 48}
PER_FEATURE = FeatureConfig(normalize="per_feature")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureConfig(hop_samples=500), "hop_samples <= window_samples <= n_fft, got 500, 400, 512"),
        (lambda: FeatureConfig(window_samples=600), "got 160, 600, 512"),
        (lambda: CrossAdapterConfig(num_layers=0), "num_layers, width, num_heads and ffn_factor must be at least 1"),
        (lambda: CrossAdapterConfig(width=10, num_heads=4), "width 10 is not a multiple of num_heads 4"),
        (lambda: CrossAdapterConfig(num_heads=0), "must be at least 1"),
        (lambda: CrossAdapterConfig(text_mixer="lstm", num_layers=2), "set num_layers: 1"),
        (lambda: ChunkedConfig(left_context=0), "left_context must be at least 1, got 0"),
        (lambda: ChunkedConfig(default_lookahead=5), r"default_lookahead 5 is not in \(13, 6, 1, 0\)"),
        (lambda: ChunkedConfig(lookaheads=(13, 3)), "chunk of 4 steps does not divide left_context 70"),
        (lambda: ChunkedConfig(lookaheads=(13, -1)), "chunk of 0 steps"),
        (lambda: WindowedConfig(block=0), "block must be at least 1 and right_context at least 0, got block=0"),
        (lambda: WindowedConfig(right_context=-1), "got block=4, right_context=-1"),
        (lambda: WindowedConfig(window=16), r"window 16 is below block \+ right_context, which are 17"),
        (
            lambda: ModelConfig(encoder=ENCODER, llm=LLM, adapter=CrossAdapterConfig(), bidirectional=WindowedConfig()),
            "bidirectional: encoder nemotron_asr_streaming_encoder is not bidirectional; remove this field",
        ),
        (
            lambda: ModelConfig(encoder=ENCODER, llm=LLM, adapter=CrossAdapterConfig(), features=PER_FEATURE),
            "normalize 'per_feature' needs all frames at once, but encoder nemotron.* hears them chunk by chunk; set",
        ),
        (lambda: PolicyConfig(k=0), "k and l must be at least 1, got k=0, l=4"),
        (lambda: PolicyConfig(l=0), "got k=6, l=0"),
        (
            lambda: ModelConfig(encoder={"hidden_size": 1}, llm=LLM, adapter=CrossAdapterConfig()),
            "encoder: transformers",
        ),
        (
            lambda: ModelConfig(encoder=ENCODER, llm={"model_type": "llama"}, adapter=CrossAdapterConfig()),
            "llm: transfor",
        ),
        (
            lambda: ModelConfig(encoder=ENCODER | {"num_mel_bins": 128}, llm=LLM, adapter=CrossAdapterConfig()),
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
    assert FeatureConfig().step_s == pytest.approx(0.08)
    assert ChunkedConfig().max_chunk_steps == 14


def test_config_survives_json(model_config: Callable[..., ModelConfig]) -> None:
    config = model_config(prompt_mode="bypass")
    text = json.dumps(config.to_dict())
    again = ModelConfig.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.adapter == config.connector
    assert again.pairs == config.pairs
    assert again.streaming.lookaheads == (13, 6, 1, 0)


def test_configs_of_models_without_questions_are_still_read(model_config: Callable[..., ModelConfig]) -> None:
    values = model_config().to_dict()
    assert values.pop("questions") == ()
    assert ModelConfig.from_dict(values).questions == ()
    assert ModelConfig.from_dict(values | {"questions": ["en", "de"]}).questions == ("en", "de")


def test_a_bidirectional_encoder_has_its_sizes_recorded() -> None:
    config = ModelConfig(encoder=PARAKEET, llm=LLM, adapter=CrossAdapterConfig(), features=PER_FEATURE)
    assert config.bidirectional == WindowedConfig(block=4, right_context=13, window=375)
    assert config.encoder.default_right_context == 13
    values = json.loads(json.dumps(config.to_dict()))
    assert values["bidirectional"] == {"block": 4, "right_context": 13, "window": 375}
    assert values["features"]["normalize"] == "per_feature"
    assert ModelConfig.from_dict(values) == config
    values["bidirectional"] = {"block": 2, "right_context": 5}
    assert ModelConfig.from_dict(values).right_context == 5
    values["bidirectional"] = {"blok": 2}
    with pytest.raises(
        ConfigError, match=r"config\.bidirectional: unknown blok; known are block, right_context, window"
    ):
        ModelConfig.from_dict(values)
    values["bidirectional"], values["features"]["normalize"] = None, "per_channel"
    with pytest.raises(ConfigError, match=r"config\.features\.normalize: expected one of none, per_feature"):
        ModelConfig.from_dict(values)


def test_a_cache_aware_encoder_has_none(model_config: Callable[..., ModelConfig]) -> None:
    config = model_config()
    assert (config.bidirectional, config.encoder.default_right_context) == (None, 13)
    assert config.to_dict()["bidirectional"] is None


def test_unknown_key_of_a_config_is_an_error(model_config: Callable[..., ModelConfig]) -> None:
    values: dict[str, Any] = model_config().to_dict()
    values["adapter"]["widht"] = 3
    with pytest.raises(ConfigError, match=r"config\.adapter: unknown widht; known are num_layers, width"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[1]", "expected a JSON object, got list"), (b"\xff\xfe", "not valid JSON")],
)
def test_only_json_objects_are_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_json(path)


def test_config_errors_are_also_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, BestowEdgeError)
