"""Tokens of the draft before that are checked several in one run: the same text, decisions and traces as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoding import heard, listen
from hypothesis import given
from hypothesis import strategies as st

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.config import PolicyConfig
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import INPUTS_EMBEDS, LOGITS, SCORED_TOKENS
from bestow_edge.runtime.decoders import memory_decoder
from bestow_edge.runtime.decoders.base import Decoder
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.model import Model

CPUINFO = Path("/proc/cpuinfo")
KNOWN = CPUINFO.is_file() and "avx512_vnni" in CPUINFO.read_text()
pytestmark = pytest.mark.skipif(not KNOWN, reason="that runs of any length give the same bits is known of AVX-512 VNNI")

Floats = npt.NDArray[np.float32]
PAIRS = ["en-de", "en-en"]
POLICIES = st.one_of(
    st.builds(LocalAgreement, st.integers(2, 3), st.integers(1, 8)),
    st.builds(LocalAgreement, st.just(2), st.integers(1, 4)),
    st.builds(WaitK, st.integers(1, 6), st.integers(1, 4)),
    st.builds(lambda threshold, steps: AlignAtt(threshold, l=steps), st.integers(1, 6), st.integers(1, 4)),
    st.just(Offline()),
)
SEEN = 12  # steps


@pytest.fixture(scope="module", params=["fp32", "int8"])
def checking_model(
    request: pytest.FixtureRequest,
    model_config: Callable[..., Any],
    save_random: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Model:
    """A tiny model whose policy drafts, with a third of its tokens as end tokens: it pauses as often as it writes."""
    from bestow_edge.export.pipeline import Check, export_bundle

    policy = PolicyConfig(name="local-agreement")
    checkpoint = save_random(
        lambda vocabulary: replace(model_config(vocabulary), policy=policy), tmp_path_factory.mktemp("checkpoint")
    )
    bundle = tmp_path_factory.mktemp("bundle") / "tiny"
    options: dict[str, Any] = {"precision": request.param, "check": Check(least=0), "progress": lambda _: None}
    export_bundle(checkpoint, bundle, **options)
    manifest = replace(read_manifest(bundle), end_ids=tuple(range(0, 300, 3)))
    assert manifest.scores_several
    return Model(bundle, manifest, device="cpu", threads=1)


@contextmanager
def guessing(most: int) -> Iterator[list[int]]:
    """Check at most so many guesses at once, and note the tokens of each run of the LLM."""
    runs: list[int] = []
    plain_run: Any = CachedGraph.run

    def run(graph: CachedGraph, feeds: Any, num_tokens: int) -> Any:
        if INPUTS_EMBEDS in feeds:
            runs.append(num_tokens)
        return plain_run(graph, feeds, num_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedGraph, "run", run)
        patch.setattr(memory_decoder, "MOST_GUESSES", most)
        yield runs


def test_text_and_decisions_are_those_without_guesses(checking_model: Model, speech: Floats) -> None:
    saved = 0

    @given(
        policies=st.lists(POLICIES, min_size=1, max_size=2),
        num_samples=st.integers(1280, 48000),
        block=st.sampled_from([1600, 7777, 48000]),
        lookahead=st.sampled_from([13, 6, 1, 0]),
        most=st.sampled_from([1, 2, 3, 15]),
        drafts=st.booleans(),
    )
    def check(policies: list[Policy], num_samples: int, block: int, lookahead: int, most: int, drafts: bool) -> None:
        nonlocal saved
        prompts = list(zip(PAIRS, policies, strict=False))
        with guessing(most) as some:
            got = listen(checking_model, prompts, speech[:num_samples], block, lookahead, drafts=drafts)
        with guessing(0) as many:
            want = listen(checking_model, prompts, speech[:num_samples], block, lookahead, drafts=drafts)
        assert got == want  # log-probabilities too: bit by bit
        assert len(some) <= len(many)
        saved += len(many) - len(some)

    check()
    assert saved


@pytest.fixture
def decoder(checking_model: Model, speech: Floats) -> Decoder:
    """A decoder that has heard speech."""
    found: Decoder = heard(checking_model, speech[:48000], [[*checking_model.manifest.prompts["en-de"]]], drafts=True)
    return found


def rehearse(decoder: Decoder, tokens: list[int], visible: int) -> list[float]:
    """Write tokens in a rehearsal; return the log-probability of each attempt."""
    found = []
    with decoder.rehearsal():
        for token in tokens:
            found.append(decoder.attempt([visible])[0].log_prob)
            decoder.commit(0, token)
    return found


def test_a_draft_is_checked_in_one_run(decoder: Decoder) -> None:
    with guessing(15) as runs:
        first = rehearse(decoder, [5, 6, 7], SEEN)
        assert runs == [2, 2, 2]
        assert rehearse(decoder, [5, 6, 7, 8], SEEN + 1) != first
        assert runs[3:] == [4]  # the fourth attempt stands behind the third guess
        assert rehearse(decoder, [5, 6, 7, 8], SEEN + 1)
        assert runs[4:] == []


def test_wrong_guesses_are_run_again(decoder: Decoder) -> None:
    with guessing(0):
        rehearse(decoder, [5, 6, 7], SEEN)
        want = rehearse(decoder, [8, 9, 10], SEEN + 1)
        again = rehearse(decoder, [5, 6, 7], SEEN)
    with guessing(15) as runs:
        rehearse(decoder, [5, 6, 7], SEEN + 2)
        del runs[:]
        assert rehearse(decoder, [8, 9, 10], SEEN + 1) == want
        assert runs == [4, 2, 2]
        assert rehearse(decoder, [5, 6, 7], SEEN) == again


def test_a_guess_with_other_visible_steps_is_run_again(decoder: Decoder) -> None:
    with guessing(15) as runs:
        rehearse(decoder, [5, 6], SEEN)
        del runs[:]
        with decoder.rehearsal():
            decoder.attempt([SEEN + 1])
            decoder.commit(0, 5)
            decoder.attempt([SEEN + 2])
            decoder.commit(0, 6)
        assert runs == [4, 2]


def test_attempts_outside_of_rehearsals_check_nothing(decoder: Decoder) -> None:
    with guessing(15) as runs:
        rehearse(decoder, [5, 6], SEEN)
        del runs[:]
        decoder.attempt([SEEN + 1])
        assert runs == [2]


def test_a_token_has_the_same_bits_in_any_run(checking_model: Model) -> None:
    spec, rng = checking_model.manifest.specs[LLM], np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    sizes = {"batch": 2, "tokens": 8, "capacity": 64, "scored": 8}
    for tensor in spec.fed:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
        feeds[tensor.name] = rng.standard_normal(shape).astype(np.float32)
    feeds |= {"past_tokens": np.array([9, 4]), SCORED_TOKENS: np.arange(8)}
    runner = checking_model.graphs[LLM].runner()
    runner.bind(feeds)
    whole = {name: np.array(value) for name, value in runner.run().items()}
    caches = {name: value.copy() for name, value in feeds.items() if name.startswith("cache_")}
    for name, cache in caches.items():
        for row, past in enumerate(feeds["past_tokens"]):
            cache[row, :, past : past + 6] = whole["new_" + name.removeprefix("cache_")][row, :, :6]
    part = {"inputs_embeds": feeds["inputs_embeds"][:, 6:].copy(), "past_tokens": feeds["past_tokens"] + 6}
    runner.bind(caches | part | {SCORED_TOKENS: np.arange(2)})
    assert np.array_equal(runner.run()[LOGITS], whole[LOGITS][:, 6:])


def test_bundles_that_score_one_token_check_nothing(model: Model, speech: Floats) -> None:
    decoder = heard(model, speech[:48000], [[*model.manifest.prompts["en-de"]]], drafts=True)
    with guessing(15) as runs:
        rehearse(decoder, [5, 6], SEEN)
        rehearse(decoder, [5, 6], SEEN + 1)
        assert runs == [1, 1, 1, 1]
