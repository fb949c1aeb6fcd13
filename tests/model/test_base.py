"""The whole torch model: both encoders, lengths and padding, configs transformers refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.windowed import WindowedConfig
from bestow_edge.model.base import Speech, SpeechModel

Configs = Callable[..., ModelConfig]


@pytest.fixture(scope="module")
def parakeet_config(model_config: Configs) -> ModelConfig:
    """The bidirectional encoder in place of the streaming one."""
    network = {
        "model_type": "parakeet_encoder",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 80,
    }
    return replace(model_config(), encoder=WindowedConfig(network=network))


def test_streaming_encoder(model_config: Configs, make_model: Callable[..., Any]) -> None:
    model = make_model(model_config())
    mel = torch.randn(2, 100, 80)
    lens = torch.tensor([100, 57])
    mel[1, 57:] = 0
    with torch.no_grad():
        speech = model.encode(mel, lens, 6)
        alone = model.encode(mel[1:, :57], lens[1:], 6)
    num_steps = model.config.encoder.num_steps
    assert speech.lens.tolist() == [num_steps(100), num_steps(57)]
    torch.testing.assert_close(speech.steps[1, : speech.lens[1]], alone.steps[0], atol=1e-4, rtol=1e-3)


def test_lookahead_decides_what_is_heard(model_config: Configs, make_model: Callable[..., Any]) -> None:
    model = make_model(model_config())
    mel = torch.randn(1, 200, 80)
    with torch.no_grad():
        outs = {look: model.encode(mel, torch.tensor([200]), look).steps for look in (None, 13, 6, 1, 0)}
    assert torch.equal(outs[None], outs[13])  # the config's default
    for one, other in ((13, 6), (6, 1), (1, 0)):
        assert not torch.allclose(outs[one], outs[other], atol=1e-3)


def test_forward_depends_on_text_and_visible_speech(model_config: Configs, make_model: Callable[..., Any]) -> None:
    model = make_model(model_config())
    tokens = torch.tensor([[5, 6, 7, 8]])
    speech = Speech(torch.randn(1, 12, 64), torch.tensor([12]))
    visible = torch.tensor([[0, 0, 4, 8]])
    with torch.no_grad():
        logits = model(tokens, speech, visible).logits
        speech.steps[:, 4:] += 1
        later_speech = model(tokens, speech, visible).logits
        later_text = model(torch.tensor([[5, 6, 7, 9]]), speech, visible).logits
    assert logits.shape == (1, 4, 300)
    torch.testing.assert_close(later_speech[:, :3], logits[:, :3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(later_speech[:, 3], logits[:, 3], atol=1e-3)
    torch.testing.assert_close(later_text[:, :3], later_speech[:, :3], atol=1e-5, rtol=1e-4)


def test_bidirectional_encoder(parakeet_config: ModelConfig, make_model: Callable[..., Any]) -> None:
    model = make_model(parakeet_config)
    mel = torch.randn(2, 80, 80)
    with torch.no_grad():
        speech = model.encode(mel, torch.tensor([80, 40]))
        logits = model(torch.tensor([[1, 4], [1, 5]]), speech, torch.tensor([[0, 10], [0, 5]])).logits
    assert speech.steps.shape[::2] == (2, 64)
    assert speech.lens.tolist() == [10, 5]
    assert logits.shape == (2, 2, 300)
    assert torch.isfinite(logits).all()


def test_unknown_encoder(model_config: Configs) -> None:
    config = model_config()
    known = "one of kind chunked: nemotron_asr_streaming_encoder"
    with pytest.raises(ConfigError, match=f"encoder: model_type 'whisper' is not {known}"):
        replace(config.encoder, network=config.encoder.network | {"model_type": "whisper"})


def test_unknown_llm(model_config: Configs) -> None:
    config = model_config()
    with pytest.raises(ConfigError, match="llm: transformers refuses this config"):
        SpeechModel.from_config(replace(config, llm=config.llm | {"model_type": "no_such_llm"}))


def test_without_speech_text_bypasses_the_connector(model_config: Configs, make_model: Callable[..., Any]) -> None:
    model = make_model(model_config())
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        out = model(tokens, None, torch.zeros_like(tokens))
        want = model.llm(input_ids=tokens, use_cache=False).logits
    assert (out.alignment, out.added) == (None, None)
    torch.testing.assert_close(out.logits, want, atol=1e-5, rtol=1e-4)
