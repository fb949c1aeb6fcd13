"""The adapter: its masks against a slow loop, padding, causality over text, prompt modes, the LSTM variant."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig
from bestow_edge.model.connectors.cross_adapter import Adapter

SPEECH_WIDTH, LLM_WIDTH, STEPS = 10, 12, 9
VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {},
    "three layers": {"num_layers": 3, "ffn_factor": 1},
    "bypass": {"prompt_mode": "bypass"},
    "lstm": {"text_mixer": "lstm", "num_layers": 1},
    "none": {"text_mixer": "none", "num_layers": 1},
    "lstm bypass": {"text_mixer": "lstm", "num_layers": 1, "prompt_mode": "bypass"},
    "same widths": {"width": LLM_WIDTH},
    "decoder": {
        "activation": "gelu",
        "positions": 8,
        "own_embedding": True,
        "residual": False,
        "null_frame": "alone",
        "speech_parts": 2,
    },
}
VISIBLE = torch.tensor([[0, 0, 2, 5, 9], [0, 1, 1, 3, 4]])


def make(**variant: Any) -> Adapter:
    torch.manual_seed(3)
    config = CrossAdapterConfig(**({"num_layers": 2, "width": 16, "num_heads": 4} | variant))
    adapter = Adapter(config, SPEECH_WIDTH, LLM_WIDTH, vocab_size=20)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return adapter.eval()


def through(adapter: Adapter, embeddings: Tensor, speech: Tensor, visible_steps: Tensor) -> Tensor:
    """Return what the LLM gets."""
    token_ids = torch.arange(embeddings.shape[1]).expand(embeddings.shape[:2])
    change = adapter.align(token_ids, embeddings, speech, visible_steps)[0]
    return embeddings + change if adapter.config.residual else change


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(2, 5, LLM_WIDTH, generator=generator)
    return embeddings, torch.randn(2, STEPS, SPEECH_WIDTH, generator=generator)


def slow_attention(attention: Any, query: Tensor, sources: list[Tensor]) -> Tensor:
    """One query vector over a list of source vectors, head by head."""
    heads, width = attention.num_heads, query.shape[-1]
    size = width // heads
    q = attention.query(query)
    parts = []
    for head in range(heads):
        one = slice(head * size, (head + 1) * size)
        scores = torch.stack([q[one] @ attention.key(source)[one] / math.sqrt(size) for source in sources])
        weights = scores.softmax(0)
        parts.append(sum(w * attention.value(source)[one] for w, source in zip(weights, sources, strict=True)))
    return attention.out(torch.cat(parts))


def slow_forward(adapter: Adapter, embeddings: Tensor, speech: Tensor, visible: list[int]) -> Tensor:
    """One sequence, position by position, with lists of what may be seen in place of masks."""
    config = adapter.config
    if config.own_embedding:
        x = [adapter.words.weight[token] + adapter.places.weight[token] for token in range(len(embeddings))]
    else:
        x = [adapter.text_in(embedding) for embedding in embeddings]
    bypassed = [config.prompt_mode == "bypass" and steps == 0 for steps in visible]
    if config.text_mixer == "lstm":
        mixed = adapter.lstm(adapter.norm_lstm(torch.stack(x))[None])[0][0]
        x = [one + two for one, two in zip(x, mixed, strict=True)]
    for layer in adapter.layers:
        if config.text_mixer == "attention":
            normed = [layer.norm_self(one) for one in x]
            for at in range(len(x)):
                seen = [normed[other] for other in range(at + 1) if other == at or not bypassed[other]]
                x[at] = x[at] + slow_attention(layer.self_attention, normed[at], seen)
        for at, steps in enumerate(visible):
            parts = [part for step in speech[:steps] for part in step.chunk(config.speech_parts)]
            heard = [adapter.speech_in(part) for part in parts]
            if config.null_frame == "always" or not heard:
                heard.append(torch.zeros(config.width))
            x[at] = x[at] + slow_attention(layer.cross_attention, layer.norm_cross(x[at]), heard)
            x[at] = x[at] + layer.ffn(layer.norm_ffn(x[at]))
    outs = [adapter.text_out(adapter.norm_out(one)) for one in x]
    return torch.stack([
        embedding if skip else embedding * config.residual + out
        for embedding, out, skip in zip(embeddings, outs, bypassed, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_forward_is_the_slow_loop(variant: dict[str, Any]) -> None:
    adapter = make(**variant)
    embeddings, speech = inputs()
    with torch.no_grad():
        got = through(adapter, embeddings, speech, VISIBLE)
        for row in range(2):
            want = slow_forward(adapter, embeddings[row], speech[row], VISIBLE[row].tolist())
            torch.testing.assert_close(got[row], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_hidden_and_padded_speech_changes_nothing(variant: dict[str, Any]) -> None:
    adapter = make(**variant)
    embeddings, speech = inputs()
    visible = torch.tensor([[0, 2, 4, 5, 5], [0, 1, 1, 3, 4]])
    other = speech.clone()
    other[0, 5:] = 100 * torch.randn(STEPS - 5, SPEECH_WIDTH)
    other[1, 4:] = 1e4
    padded = torch.cat([speech, torch.full((2, 4, SPEECH_WIDTH), 7.0)], dim=1)
    with torch.no_grad():
        want = through(adapter, embeddings, speech, visible)
        torch.testing.assert_close(through(adapter, embeddings, other, visible), want, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(through(adapter, embeddings, padded, visible), want, atol=1e-6, rtol=1e-5)
        other[0, 4] += 1  # the last step that is visible to someone
        assert not torch.allclose(through(adapter, embeddings, other, visible)[0, 3:], want[0, 3:], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_later_text_changes_nothing_before_it(variant: dict[str, Any]) -> None:
    adapter = make(**variant)
    embeddings, speech = inputs()
    with torch.no_grad():
        want = through(adapter, embeddings, speech, VISIBLE)
        for length in range(1, 5):
            short = through(adapter, embeddings[:, :length], speech, VISIBLE[:, :length])
            torch.testing.assert_close(short, want[:, :length], atol=1e-5, rtol=1e-4)
        changed = embeddings.clone()
        changed[:, 2, 0] += 1  # it is bypassed in no variant, so what follows does depend on it if anything mixes text
        same = torch.allclose(through(adapter, changed, speech, VISIBLE)[:, 3:], want[:, 3:], atol=1e-4)
        assert same == (variant.get("text_mixer") == "none" or adapter.config.own_embedding)


def test_the_prompt_hears_the_null_frame_only() -> None:
    adapter = make()
    embeddings, speech = inputs()
    with torch.no_grad():
        want = through(adapter, embeddings, torch.zeros_like(speech), VISIBLE)
        got = through(adapter, embeddings, speech, VISIBLE)
        torch.testing.assert_close(got[0, :2], want[0, :2], atol=1e-6, rtol=0)
        assert not torch.allclose(got[0, 2:], want[0, 2:], atol=1e-3)
        assert not torch.allclose(got[0, :2], embeddings[0, :2], atol=1e-3)  # it does go through the adapter
        silent = through(adapter, embeddings, speech[:, :0], torch.zeros_like(VISIBLE))
        assert torch.isfinite(silent).all()


@pytest.mark.parametrize("mixer", ["attention", "lstm", "none"])
def test_bypass_leaves_prompt_embeddings_alone(mixer: str) -> None:
    adapter = make(prompt_mode="bypass", text_mixer=mixer, num_layers=1)
    embeddings, speech = inputs()
    with torch.no_grad():
        got = through(adapter, embeddings, speech, VISIBLE)
    torch.testing.assert_close(got[0, :2], embeddings[0, :2], atol=0, rtol=0)
    torch.testing.assert_close(got[1, :1], embeddings[1, :1], atol=0, rtol=0)
    assert not torch.allclose(got[1, 1], embeddings[1, 1], atol=1e-3)


def test_bypassed_tokens_are_not_attended_to() -> None:
    adapter = make(prompt_mode="bypass")
    embeddings, speech = inputs()
    changed = embeddings.clone()
    changed[0, 0, 0] += 1
    with torch.no_grad():
        want, got = through(adapter, embeddings, speech, VISIBLE), through(adapter, changed, speech, VISIBLE)
    torch.testing.assert_close(got[0, 1:], want[0, 1:], atol=1e-6, rtol=0)


def test_rows_of_a_batch_are_independent() -> None:
    adapter = make()
    embeddings, speech = inputs()
    with torch.no_grad():
        both = through(adapter, embeddings, speech, VISIBLE)
        alone = [through(adapter, embeddings[[row]], speech[[row]], VISIBLE[[row]]) for row in range(2)]
        torch.testing.assert_close(torch.cat(alone), both, atol=1e-6, rtol=1e-5)


def test_attention_is_of_steps() -> None:
    """The weights of the parts of a step are added up."""
    adapter = make(**VARIANTS["decoder"])
    embeddings, speech = inputs()
    with torch.no_grad():
        _, weights = adapter.align(torch.zeros(2, 5, dtype=torch.int64), embeddings, speech, VISIBLE)
    assert weights.shape == (2, 5, STEPS + 1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    seen = (weights[..., :-1] > 0).sum(-1)
    assert torch.equal(seen, VISIBLE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": 8, "text_mixer": "none"}, "positions need text_mixer 'attention'"),
        ({"positions": 8, "prompt_mode": "bypass"}, "and prompt_mode 'null_frame'"),
        ({"residual": False, "prompt_mode": "bypass"}, "needs the residual"),
        ({"speech_parts": 0}, "speech_parts at least 1"),
    ],
)
def test_variants_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CrossAdapterConfig(**fields)


def test_dropout_works_in_training_only() -> None:
    adapter = make(dropout=0.5)
    embeddings, speech = inputs()
    with torch.no_grad():
        assert torch.equal(through(adapter, embeddings, speech, VISIBLE), through(adapter, embeddings, speech, VISIBLE))
        adapter.train()
        assert not torch.equal(
            through(adapter, embeddings, speech, VISIBLE), through(adapter, embeddings, speech, VISIBLE)
        )
