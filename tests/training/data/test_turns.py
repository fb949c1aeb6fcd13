"""Sequences of speech and text in turns: each token at the first turn that ends the delay after its word."""

import numpy as np
import pytest

from bestow_edge.core.specs.interleave import SPEECH
from bestow_edge.training.data.turns import Turns, due_steps, make_stream, make_turns

END, IGNORED, S = 2, -100, SPEECH


def turns(answer: list[int], heard: list[int], *, delay: int, turn_steps: int, source_steps: int) -> Turns:
    due = due_steps(np.array(heard, dtype=np.int64), delay, source_steps)
    return make_turns(
        [9, 50], answer, due, turn_steps=turn_steps, source_steps=source_steps, end_id=END, ignored=IGNORED
    )


def test_a_sequence_written_out() -> None:
    """Words heard with 2 and 5 steps, delay 1, turns of 2 steps, 6 steps: text behind 4 and behind 6."""
    got = turns([20, 21, 22], [2, 2, 5], delay=1, turn_steps=2, source_steps=6)
    assert got.token_ids.tolist() == [9, 50, S, S, S, S, 20, 21, S, S, 22, END]
    assert got.visible.tolist() == [0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 6, 7]
    n = IGNORED
    assert got.targets.tolist() == [n, n, n, END, n, 20, 21, END, n, 22, END, END]


def test_the_mark_ends_a_turn_that_is_not_full() -> None:
    got = turns([20], [5], delay=4, turn_steps=4, source_steps=5)
    assert got.token_ids.tolist() == [9, 50, S, S, S, S, S, END, 20]
    assert got.targets.tolist()[-4:] == [END, IGNORED, 20, END]  # behind step 4, step 5, the mark and the text


@pytest.mark.parametrize("turn_steps", [1, 3, 4])
def test_every_turn_ends_with_blank_and_every_token_stands_once(turn_steps: int) -> None:
    rng = np.random.default_rng(turn_steps)
    for _ in range(50):
        steps, count = int(rng.integers(1, 40)), int(rng.integers(0, 12))
        answer, heard = rng.integers(10, 40, count).tolist(), np.sort(rng.integers(1, steps + 1, count)).tolist()
        delay = int(rng.integers(0, 9))
        got = turns(answer, heard, delay=delay, turn_steps=turn_steps, source_steps=steps)
        ids, visible, targets = got.token_ids.tolist(), got.visible.tolist(), got.targets.tolist()
        assert ids.count(S) == steps
        asked = [target for target in targets if target != IGNORED]
        assert asked.count(END) == -(-(steps + 1) // turn_steps)
        assert [target for target in asked if target != END] == answer
        for token, due in zip((place for place, target in enumerate(targets) if target >= 10), heard, strict=True):
            seen = visible[token]
            assert seen >= min(due + delay, steps + 1)
            assert seen - min(due + delay, steps + 1) < turn_steps


def stream(answer: list[int], heard: list[int], *, delay: int, source_steps: int) -> Turns:
    due = due_steps(np.array(heard, dtype=np.int64), delay, source_steps)
    return make_stream([9, 50], answer, due, source_steps=source_steps, end_id=END, ignored=IGNORED)


def test_an_added_sequence_written_out() -> None:
    """Words heard with 2 and 5 steps, delay 1, 6 steps: tokens at 3, 4 and 6; each is the input of the next step."""
    got = stream([20, 21, 22], [2, 2, 5], delay=1, source_steps=6)
    assert got.token_ids.tolist() == [9, 50, END, END, END, 20, 21, END, 22]
    assert got.visible.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert got.targets.tolist() == [IGNORED, IGNORED, END, END, 20, 21, END, 22, END]


def test_the_rest_stands_behind_the_mark() -> None:
    got = stream([20, 21, 22], [2, 2, 2], delay=1, source_steps=3)
    assert got.token_ids.tolist() == [9, 50, END, END, END, 20, 21, 22]
    assert got.visible.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    assert got.targets.tolist() == [IGNORED, IGNORED, END, END, 20, 21, 22, END]


def test_every_added_token_stands_once_and_not_before_it_is_due() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps, count = int(rng.integers(1, 40)), int(rng.integers(0, 12))
        answer, heard = rng.integers(10, 40, count).tolist(), np.sort(rng.integers(1, steps + 1, count)).tolist()
        delay = int(rng.integers(0, 9))
        got = stream(answer, heard, delay=delay, source_steps=steps)
        assert got.visible[2 : steps + 3].tolist() == list(range(1, steps + 2))
        targets = got.targets[2:].tolist()
        assert got.token_ids[3:].tolist() == targets[:-1]
        places = [place for place, target in enumerate(targets) if target != END]
        assert [targets[place] for place in places] == answer
        for place, due in zip(places, heard, strict=True):
            assert got.visible[2 + place] >= min(due + delay, steps + 1)


def test_words_without_times_are_written_at_the_end() -> None:
    assert due_steps(np.array([0, 0]), 3, 10).tolist() == [11, 11]
    assert due_steps(np.array([0, 4, 0, 6]), 3, 10).tolist() == [7, 7, 7, 9]
    assert due_steps(np.zeros(0, dtype=np.int64), 3, 10).tolist() == []
