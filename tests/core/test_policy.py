"""Wait-k and offline policies: the numbers of the paper, prompt positions, the end of the source, pauses."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import (
    ALL_STEPS,
    AlignAtt,
    LocalAgreement,
    Offline,
    Policy,
    View,
    WaitK,
    check_policy,
    visible_steps,
    wanted_steps,
)


def test_the_papers_example() -> None:
    """K = 6 blocks of L = 4 steps (1.92 s) before the first token, then 4 steps (320 ms) for each."""
    got = visible_steps(WaitK(6, 4), prompt_tokens=3, text_tokens=7, source_steps=100)
    assert got.tolist() == [0, 0, 24, 28, 32, 36, 40]
    assert got.dtype == np.int64


def test_the_last_prompt_token_is_the_first_query() -> None:
    assert visible_steps(WaitK(2, 3), prompt_tokens=1, text_tokens=1, source_steps=9).tolist() == [6]
    assert visible_steps(WaitK(2, 3), prompt_tokens=4, text_tokens=4, source_steps=9).tolist() == [0, 0, 0, 6]


def test_the_source_ends() -> None:
    got = visible_steps(WaitK(2, 4), prompt_tokens=2, text_tokens=6, source_steps=13)
    assert got.tolist() == [0, 8, 12, 13, 13, 13]


def test_offline_sees_everything_from_the_first_token() -> None:
    got = visible_steps(Offline(), prompt_tokens=3, text_tokens=5, source_steps=17)
    assert got.tolist() == [0, 0, 17, 17, 17]
    assert wanted_steps(Offline(), 0) == ALL_STEPS
    assert Offline().read_steps == ALL_STEPS


def test_pauses_raise_what_the_policy_allows() -> None:
    at_least = np.array([0, 20, 20, 99])
    got = visible_steps(WaitK(2, 4), prompt_tokens=2, text_tokens=5, source_steps=40, at_least=at_least)
    assert got.tolist() == [0, 8, 20, 20, 40]


@given(
    k=st.integers(1, 12),
    l=st.integers(1, 8),
    index=st.integers(0, 50),
    at_least=st.integers(0, 300),
    prompt_tokens=st.integers(1, 10),
    source_steps=st.integers(0, 300),
)
def test_mask_and_live_loop_have_one_definition(
    k: int,
    l: int,  # noqa: E741 - the paper's letter
    index: int,
    at_least: int,
    prompt_tokens: int,
    source_steps: int,
) -> None:
    policy = WaitK(k, l)
    floors = np.full(index + 1, at_least)
    mask = visible_steps(
        policy,
        prompt_tokens=prompt_tokens,
        text_tokens=prompt_tokens + index,
        source_steps=source_steps,
        at_least=floors,
    )
    assert mask.shape == (prompt_tokens + index,)
    assert not mask[: prompt_tokens - 1].any()
    assert mask[-1] == min(wanted_steps(policy, index, at_least), source_steps)
    assert wanted_steps(policy, index, at_least) == max((k + index) * l, at_least)
    assert (np.diff(mask[prompt_tokens - 1 :]) >= 0).all()


@pytest.mark.parametrize(("k", "l"), [(0, 4), (3, 0), (-1, 4)])
def test_wait_k_needs_positive_numbers(k: int, l: int) -> None:  # noqa: E741 - the paper's letter
    with pytest.raises(ValueError, match=f"got k={k}, l={l}"):
        WaitK(k, l)


@pytest.mark.parametrize(("prompt_tokens", "text_tokens"), [(0, 3), (4, 3)])
def test_lengths_must_fit(prompt_tokens: int, text_tokens: int) -> None:
    with pytest.raises(ValueError, match="1 <= prompt_tokens <= text_tokens"):
        visible_steps(WaitK(3, 4), prompt_tokens=prompt_tokens, text_tokens=text_tokens, source_steps=9)


def test_one_floor_for_each_answer_position() -> None:
    with pytest.raises(ValueError, match="at_least has 2 entries, expected 4"):
        visible_steps(WaitK(2, 4), prompt_tokens=2, text_tokens=5, source_steps=40, at_least=np.array([0, 0]))


def view(index: int = 0, visible: int = 20, peak: int = 5, refusals: int = 0, drafts: tuple[Any, ...] = ()) -> View:
    weights = np.zeros(visible, dtype=np.float32)
    weights[peak] = 1
    return View(index, 7, -0.1, visible, refusals, lambda _layer: weights, drafts)


@pytest.mark.parametrize(("peak", "accepted"), [(0, True), (15, True), (16, False), (19, False)])
def test_align_att_waits_for_what_lies_at_the_edge(peak: int, accepted: bool) -> None:
    policy = AlignAtt(threshold=4, pool=1)
    assert policy.accepts(view(peak=peak)) is accepted
    assert policy.accepts(view(peak=peak, refusals=10))  # it has waited long enough
    assert not AlignAtt(threshold=4, pool=1, sink_steps=30).accepts(view(peak=peak))  # nothing is left to look at


def test_local_agreement_wants_all_drafts_to_agree() -> None:
    policy = LocalAgreement(n=2)
    assert not policy.accepts(view(drafts=((1, 2),)))
    assert policy.accepts(view(drafts=((1, 2), (1, 3))))
    assert not policy.accepts(view(index=1, drafts=((1, 2), (1, 3))))
    assert not policy.accepts(view(index=2, drafts=((1, 2), (1, 2))))  # none of them says so much


@pytest.mark.parametrize("build", [lambda: AlignAtt(-1), lambda: AlignAtt(l=0), lambda: LocalAgreement(1)])
def test_policies_check_their_ranges(build: Any) -> None:
    with pytest.raises(ValueError, match=r"align-att|local agreement"):
        build()


def test_align_att_refuses_words_that_look_at_nothing() -> None:
    weights = np.zeros(10, np.float32)
    weights[1] = 0.3  # the rest is on the silence behind the audio
    view = View(0, 5, -0.1, 10, 0, lambda _layer: weights, ())
    assert AlignAtt(4, pool=1).accepts(view)
    assert not AlignAtt(4, pool=1, least_share=0.5).accepts(view)
    with pytest.raises(ValueError, match="least_share must be at least 0 and below 1, got 1"):
        AlignAtt(least_share=1)


@pytest.mark.parametrize("number", ["6", 6.5, True, None, 2**40, float("nan")])
def test_numbers_of_a_policy_have_types(number: Any) -> None:  # Any: wrong on purpose
    for make in (lambda: WaitK(k=number, l=4), lambda: AlignAtt(pool=number), lambda: LocalAgreement(n=number)):
        with pytest.raises(ConfigError, match="expected a whole number"):
            make()


class Odd(Policy):
    """A policy of a program that asks for what no session can give."""

    def __init__(self, **values: Any) -> None:  # Any: wrong on purpose
        self.values = values

    @property
    def read_steps(self) -> Any:
        return self.values.get("read_steps", 4)

    @property
    def num_drafts(self) -> Any:
        return self.values.get("num_drafts", 0)

    def steps_needed(self, index: int) -> Any:
        return self.values.get("steps_needed", 4 * index)


@pytest.mark.parametrize(
    "values", [{"read_steps": -1}, {"read_steps": 1.5}, {"num_drafts": -1}, {"num_drafts": 10**6}, {"steps_needed": -1},
               {"steps_needed": 2**63}, {"steps_needed": None}],
)  # fmt: skip
def test_a_policy_is_checked_when_a_session_opens(values: dict[str, Any]) -> None:
    check_policy(Odd())
    with pytest.raises(ConfigError, match=f"policy Odd: {next(iter(values))}.* is .*; expected a whole number from"):
        check_policy(Odd(**values))
    with pytest.raises(ConfigError, match="expected one such as WaitK"):
        check_policy("wait-k")
