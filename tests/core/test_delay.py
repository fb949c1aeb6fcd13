"""From seconds to K, L and look-ahead: never above the target, never less for more, and which trade is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.config import FeatureConfig, ModelConfig, PolicyConfig
from bestow_edge.core.delay import TRAINED_K, Choice, delay_s, is_trained, parse_latency, solve
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.core.specs.cross_adapter import CrossAdapterConfig

LOOKAHEADS = (34, 13, 9, 6, 4, 1, 0)  # their chunks divide a left context of 70


def config(l: int = 4, lookaheads: tuple[int, ...] = (13, 6, 1, 0), hop_samples: int = 160) -> ModelConfig:  # noqa: E741
    network = {"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 8}
    return ModelConfig(
        encoder=ChunkedConfig(network=network, lookaheads=lookaheads, default_lookahead=lookaheads[0]),
        llm={"model_type": "any", "hidden_size": 8},
        connector=CrossAdapterConfig(),
        features=FeatureConfig(hop_samples=hop_samples),
        policy=PolicyConfig(l=l),
    )


configs = st.builds(
    config,
    l=st.integers(1, 10),
    lookaheads=st.lists(st.sampled_from(LOOKAHEADS), min_size=1, unique=True).map(tuple),
    hop_samples=st.sampled_from((160, 128, 200)),
)
targets = st.floats(0, 12, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2.5s", 2.5), ("2500ms", 2.5), ("2.5", 2.5), (" 2.5 s ", 2.5), (".5", 0.5), ("3.", 3.0), ("0", 0.0)],
)
def test_seconds_and_milliseconds(text: str, seconds: float) -> None:
    assert parse_latency(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "fast", "-1s", "2,5s", "2.5 min", "1e3", "nan", "inf", "2.5ss", "٣"])
def test_what_is_no_latency(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected seconds or milliseconds such as 2\.5s, 2500ms or 2\.5"):
        parse_latency(text)


@given(milliseconds=st.integers(0, 10_000_000))
def test_both_units_mean_the_same(milliseconds: int) -> None:
    assert parse_latency(f"{milliseconds}ms") == parse_latency(f"{milliseconds / 1000:.3f}s")


@pytest.mark.parametrize(
    ("target_s", "k", "l", "lookahead", "delay"),
    [
        (60.0, 12, 4, 13, 4.88),  # more is not trained
        (4.88, 12, 4, 13, 4.88),
        (2.56, 4, 4, 13, 2.32),  # not K=8 with look-ahead 0, which would fill it
        (2.5, 4, 4, 13, 2.32),
        (2.32, 4, 4, 13, 2.32),  # exactly, in floating point too
        (2.0, 3, 4, 13, 2.0),
        (1.99, 4, 4, 6, 1.76),
        (1.0, 3, 4, 0, 0.96),
        (0.95, 2, 4, 1, 0.72),  # K leaves its range before L does
        (0.5, 1, 4, 1, 0.4),
        (0.31, 3, 1, 0, 0.24),  # nothing fits with L=4
        (0.08, 1, 1, 0, 0.08),
    ],
)
def test_choices_of_a_usual_model(target_s: float, k: int, l: int, lookahead: int, delay: float) -> None:  # noqa: E741
    choice = solve(target_s, config())
    assert choice == Choice(k=k, l=l, lookahead=lookahead, delay_s=delay)
    assert is_trained(choice.k, choice.l, config()) == (target_s >= 0.96)


def test_how_a_choice_is_printed() -> None:
    assert str(solve(2.5, config())) == "K=4, L=4, look-ahead 13 (2.32 s)"


@given(target_s=targets, model=configs)
def test_never_above_the_target_and_of_the_models_own(target_s: float, model: ModelConfig) -> None:
    try:
        choice = solve(target_s, model)
    except ConfigError:
        assert target_s < delay_s(1, 1, min(model.encoder.right_contexts), model)
        return
    assert choice.delay_s <= target_s
    assert choice.delay_s == pytest.approx((choice.k * choice.l + choice.lookahead) * model.step_s, abs=1e-6)
    assert choice.lookahead in model.encoder.right_contexts
    assert choice.k < TRAINED_K.stop
    assert 1 <= choice.l <= model.policy.l


@given(one_s=targets, other_s=targets, model=configs)
def test_a_larger_target_never_gives_a_smaller_delay(one_s: float, other_s: float, model: ModelConfig) -> None:
    try:
        shorter, longer = (solve(target_s, model) for target_s in sorted((one_s, other_s)))
    except ConfigError:
        return
    assert shorter.delay_s <= longer.delay_s
    if is_trained(shorter.k, shorter.l, model):
        assert shorter.lookahead <= longer.lookahead


@given(target_s=targets, model=configs)
def test_less_than_a_block_is_left_unless_k_is_at_its_end(target_s: float, model: ModelConfig) -> None:
    least = delay_s(TRAINED_K.start, model.policy.l, min(model.encoder.right_contexts), model)
    if target_s < least:
        return
    choice = solve(target_s, model)
    assert is_trained(choice.k, choice.l, model)
    assert choice.k == TRAINED_K.stop - 1 or target_s - choice.delay_s < choice.l * model.step_s + 1e-6


@pytest.mark.parametrize("target_s", [0.0, 0.07, -1.0, float("nan")])
def test_too_short_names_the_shortest(target_s: float) -> None:
    with pytest.raises(ConfigError, match=r"the shortest possible .* K=1, L=1, look-ahead 0 \(0\.08 s\)"):
        solve(target_s, config())
    with pytest.raises(ConfigError, match=r"look-ahead 6 \(0\.56 s\)"):
        solve(target_s, config(lookaheads=(13, 6)))
