"""Attempts of a rehearsal that are used again: the same text and decisions as without, by fewer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoding import listen
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.decoders.rehearsed import Path, Rehearsed
from bestow_edge.runtime.model import Model

Floats = npt.NDArray[np.float32]
PAIRS = ["en-de", "en-en"]
POLICIES = st.one_of(
    st.builds(WaitK, st.integers(1, 6), st.integers(1, 4)),
    st.builds(LocalAgreement, st.integers(2, 3), st.integers(1, 8)),
    st.builds(lambda threshold, steps: AlignAtt(threshold, l=steps), st.integers(1, 6), st.integers(1, 4)),
    st.just(Offline()),
)


def attempt(token_id: int) -> Attempt:
    return Attempt(token_id, -1.0, 3, lambda: np.zeros(4, dtype=np.float32))


class Runs:
    """Attempts by key, and the keys that were run; behind each a run attempts those that are guessed."""

    def __init__(self, guesses: dict[str, str] | None = None) -> None:
        self.rehearsed, self.keys, self._guesses = Rehearsed(), "", guesses or {}

    def attempt(self, keys: str) -> None:
        """Attempt each of some keys."""
        for key in keys:
            (found,) = self.rehearsed.attempt(key, lambda key=key: self._run(key))  # type: ignore[misc]
            assert found.token_id == ord(key)

    def _run(self, key: str) -> Path:
        self.keys += key
        return [(one, [attempt(ord(one))]) for one in key + self._guesses.get(key, "")]


def test_a_path_is_followed_from_its_begin() -> None:
    runs = Runs()
    with runs.rehearsed.rehearsal():
        runs.attempt("abc")
    runs.attempt("aabb")  # a token may be attempted twice
    assert runs.keys == "abc"
    runs.attempt("xc")  # x overwrites what stands behind b
    assert runs.keys == "abcxc"


def test_a_path_is_followed_without_gaps() -> None:
    runs = Runs()
    with runs.rehearsed.rehearsal():
        runs.attempt("abc")
    runs.attempt("b")
    assert runs.keys == "abcb"


def test_a_rehearsal_within_one_keeps_the_path_before_it() -> None:
    runs = Runs()
    with runs.rehearsed.rehearsal():
        runs.attempt("a")
        with runs.rehearsed.rehearsal():
            runs.attempt("b")
        runs.attempt("x")
    runs.attempt("axb")
    assert runs.keys == "abxb"


def test_nothing_is_kept_outside_of_rehearsals() -> None:
    runs = Runs()
    runs.attempt("aa")
    assert runs.keys == "aa"


def test_forgotten_attempts_are_run_again() -> None:
    runs = Runs()
    with runs.rehearsed.rehearsal():
        runs.attempt("ab")
    runs.rehearsed.forget()
    runs.attempt("ab")
    assert runs.keys == "abab"


def test_guesses_of_a_run_are_taken_until_one_is_wrong() -> None:
    runs = Runs({"a": "bcd", "x": "y"})
    with runs.rehearsed.rehearsal():
        runs.attempt("abxyz")
    assert runs.keys == "axz"
    runs.attempt("abxyzc")  # c was guessed behind b, but x has overwritten it
    assert runs.keys == "axzc"


@contextmanager
def counted(*, used: bool) -> Iterator[list[int]]:
    """Count runs of graphs with caches, with what was rehearsed or without."""

    def forgetful(_rehearsed: Rehearsed, _key: object, run: Callable[[], Path]) -> list[Attempt]:
        return run()[0][1]

    runs = [0]
    plain_run: Any = CachedGraph.run

    def run(graph: CachedGraph, *args: Any) -> Any:
        runs[0] += 1
        return plain_run(graph, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedGraph, "run", run)
        if not used:
            patch.setattr(Rehearsed, "attempt", forgetful)
        yield runs


def test_text_and_decisions_are_those_of_single_runs(pausing_model: Model, speech: Floats) -> None:
    saved = 0

    @given(
        policies=st.lists(POLICIES, min_size=1, max_size=2),
        num_samples=st.integers(1280, 48000),
        block=st.sampled_from([1600, 7777, 48000]),
        lookahead=st.sampled_from([13, 6, 1, 0]),
    )
    def check(policies: list[Policy], num_samples: int, block: int, lookahead: int) -> None:
        nonlocal saved
        prompts = list(zip(PAIRS, policies, strict=False))
        with counted(used=True) as some:
            got = listen(pausing_model, prompts, speech[:num_samples], block, lookahead)
        with counted(used=False) as many:
            want = listen(pausing_model, prompts, speech[:num_samples], block, lookahead)
        assert got == want
        assert some[0] <= many[0]
        saved += many[0] - some[0]

    check()
    assert saved > 0


def test_drafts_of_local_agreement_are_not_run_twice(bidirectional_model: Model, speech: Floats) -> None:
    runs = {}
    for used in (True, False):
        with counted(used=used) as count:
            listen(bidirectional_model, [(PAIRS[0], LocalAgreement(2, 4))], speech[:64000], 1600)
        runs[used] = count[0]
    assert runs[True] < 0.9 * runs[False]
