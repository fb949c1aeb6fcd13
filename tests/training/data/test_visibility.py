"""The simulated live loop: positions that pause have not heard their word, the others have, and none looks back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.policy import Offline, WaitK
from bestow_edge.training.data.visibility import heard_steps, make_schedule


def test_a_word_is_heard_with_the_step_behind_its_end() -> None:
    ends_s = np.array([0.0, 0.01, 0.08, 0.081, 5.0])
    assert heard_steps(ends_s, 0.08, 20).tolist() == [1, 2, 2, 3, 20]


def test_without_pauses_a_token_waits_for_its_word() -> None:
    got = make_schedule(
        WaitK(1, 4),
        prompt_tokens=3,
        heard=np.array([3, 10, 11]),
        source_steps=30,
        pauses=0.0,
        rng=np.random.default_rng(0),
    )
    assert got.visible.tolist() == [0, 0, 4, 12, 12, 16]
    assert not got.paused.any()


def test_every_waiting_position_is_shown_paused() -> None:
    got = make_schedule(
        WaitK(1, 4),
        prompt_tokens=1,
        heard=np.array([3, 10, 25]),
        source_steps=30,
        pauses=1.0,
        rng=np.random.default_rng(0),
    )
    assert got.paused.tolist() == [False, True, True, False]
    assert got.visible[1] == 8
    assert got.visible[2] in {12, 16, 20, 24}
    assert 28 <= got.visible[3] <= 30


def test_offline_never_pauses() -> None:
    got = make_schedule(
        Offline(),
        prompt_tokens=2,
        heard=np.array([5, 9]),
        source_steps=11,
        pauses=1.0,
        rng=np.random.default_rng(0),
    )
    assert got.visible.tolist() == [0, 11, 11, 11]
    assert not got.paused.any()


@given(
    k=st.integers(1, 8),
    l=st.integers(1, 6),
    prompt_tokens=st.integers(1, 5),
    waits=st.lists(st.integers(0, 20), max_size=8),
    source_steps=st.integers(1, 80),
    pauses=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_schedules_are_lawful(
    k: int,
    l: int,  # noqa: E741 - the paper's letter
    prompt_tokens: int,
    waits: list[int],
    source_steps: int,
    pauses: float,
    seed: int,
) -> None:
    policy = WaitK(k, l)
    heard = np.minimum(np.cumsum(waits).astype(np.int64), source_steps)
    rng = np.random.default_rng(seed)
    got = make_schedule(
        policy, prompt_tokens=prompt_tokens, heard=heard, source_steps=source_steps, pauses=pauses, rng=rng
    )
    answers = got.visible[prompt_tokens - 1 :]
    assert got.visible.shape == (prompt_tokens + heard.size,)
    assert got.paused.shape == answers.shape == (heard.size + 1,)
    assert not got.visible[: prompt_tokens - 1].any()
    assert (got.visible <= source_steps).all()
    for index, (visible, paused) in enumerate(zip(answers, got.paused, strict=True)):
        assert visible >= min(policy.steps_needed(index), source_steps)
        if index < heard.size:
            assert (visible < heard[index]) == paused  # it pauses exactly where its word has not been heard
    assert not got.paused[-1]
    written = answers[~got.paused]
    assert (np.diff(written) >= 0).all()  # what was read stays read; a pause is shown earlier than it ends
    unpaused = make_schedule(
        policy, prompt_tokens=prompt_tokens, heard=heard, source_steps=source_steps, pauses=0.0, rng=rng
    ).visible[prompt_tokens - 1 :]
    assert (np.diff(unpaused) >= 0).all()
    assert (answers[:-1] <= unpaused[:-1]).all()
