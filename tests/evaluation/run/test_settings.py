"""Settings of an evaluation: every combination once, and nothing the model cannot do."""

from dataclasses import replace

import pytest

from bestow_edge.core.config import ModelConfig, PolicyConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import AlignAtt, EveryStep, LocalAgreement, Offline, WaitK
from bestow_edge.core.specs.interleave import InterleaveConfig
from bestow_edge.evaluation.run.settings import Setting, all_settings
from bestow_edge.runtime import Model


@pytest.fixture
def config(digits: Model) -> ModelConfig:
    return digits.config


def test_every_combination(config: ModelConfig) -> None:
    found = all_settings(config, ["wait-k", "offline"], varied={"k": [3, 6]}, lookaheads=[13, 0])
    assert [setting.name for setting in found] == [
        "wait-k_k3_l4_lookahead13",
        "wait-k_k6_l4_lookahead13",
        "offline_lookahead13",
        "wait-k_k3_l4_lookahead0",
        "wait-k_k6_l4_lookahead0",
        "offline_lookahead0",
    ]
    assert (found[0].point, found[0].curve, found[2].point) == ("K=3", "wait-k, look-ahead 13", "")


def test_defaults_are_the_models(config: ModelConfig) -> None:
    names = ["wait-k", "align-att", "local-agreement", "offline"]
    found = [setting.make_policy(config.policy) for setting in all_settings(config, names, varied={})]
    assert found == [WaitK(config.policy.k, config.policy.l), AlignAtt(), LocalAgreement(), Offline()]
    (setting,) = all_settings(config, ["align-att"], varied={"threshold": [8]}, l=2)
    assert setting.make_policy(config.policy) == AlignAtt(threshold=8, l=2)
    assert (setting.point, setting.lookahead) == ("threshold=8", config.encoder.default_right_context)


def test_a_curve_over_the_bias_for_each_delay(config: ModelConfig) -> None:
    policy = PolicyConfig(name="every-step", l=2, delay=4)
    turns = replace(config, connector=InterleaveConfig(window=64, delays=(4, 8)), policy=policy)
    varied = {"delay": [4, 8], "blank_bias": [-2.0, 0.5]}
    found = all_settings(turns, ["every-step"], varied=varied, lookaheads=[1])
    assert [(setting.curve, setting.point) for setting in found] == [
        ("every-step, delay 4, look-ahead 1", "blank_bias=-2.0"),
        ("every-step, delay 4, look-ahead 1", "blank_bias=0.5"),
        ("every-step, delay 8, look-ahead 1", "blank_bias=-2.0"),
        ("every-step, delay 8, look-ahead 1", "blank_bias=0.5"),
    ]
    assert found[0].make_policy(turns.policy) == EveryStep(l=2, delay=4, blank_bias=-2.0)
    with pytest.raises(ConfigError, match="delay 5; this model was trained with 4, 8 steps"):
        all_settings(turns, ["every-step"], varied={"delay": [5]})


@pytest.mark.parametrize(
    ("policies", "varied", "lookaheads", "message"),
    [
        (["wait"], {}, [], "policy 'wait': expected one of wait-k, offline"),
        (["offline"], {"k": [3]}, [], "k belongs to another policy than offline"),
        (["wait-k"], {}, [5], "lookahead 5: this model has 13, 6, 1, 0"),
        (["wait-k"], {"k": [3, 3]}, [], "named twice"),
        (["wait-k"], {"k": [0]}, [], "wait-k needs k >= 1"),
    ],
)
def test_what_is_refused(
    config: ModelConfig, policies: list[str], varied: dict[str, list[int]], lookaheads: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        all_settings(config, policies, varied=varied, lookaheads=lookaheads)


def test_the_record_names_everything() -> None:
    setting = Setting("wait-k", {"k": 3, "l": 4}, 6)
    assert setting.record() == {
        "name": "wait-k_k3_l4_lookahead6", "policy": "wait-k", "k": 3, "l": 4, "lookahead": 6
    }  # fmt: skip
