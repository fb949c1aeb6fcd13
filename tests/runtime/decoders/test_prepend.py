"""Connector kind `prepend` at run time: equal to NeMo offline, one text for all blocks, no step of speech run twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from decoding import heard, tokens, write

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, WaitK
from bestow_edge.core.specs.prepend import prepend
from bestow_edge.core.tensors import INPUTS_EMBEDS
from bestow_edge.export.pipeline import export_bundle
from bestow_edge.model.pretrained.components import WholeRequest
from bestow_edge.model.pretrained.whole import init_whole
from bestow_edge.runtime.devices.base import Buffer
from bestow_edge.runtime.model import Model, load
from bestow_edge.runtime.stream.listener import Listener

FIXTURE = Path(__file__).parents[2] / "fixtures" / "salm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("salm")
    request = WholeRequest(source=str(FIXTURE / "salm"), pairs=("en-en", "en-de"), instruction="To {target}: ")
    init_whole(request, directory / "checkpoint", progress=lambda _: None)
    export_bundle(directory / "checkpoint", directory / "fp32", precision="fp32", progress=lambda _: None)
    return load(directory / "fp32", threads=1)


@pytest.fixture(scope="module")
def nemo() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "salm.npz"))


def prompt(model: Model, pair: str = "en-en") -> list[int]:
    return list(model.manifest.prompts[pair])


def test_greedy_tokens_equal_nemo(model: Model, nemo: dict[str, np.ndarray]) -> None:
    decoder = heard(model, nemo["waveform"], [nemo["prompt_ids"].tolist()])
    assert decoder.heard == len(nemo["encoded"])
    assert [token for (token,) in write(decoder, 24)] == nemo["answer_ids"].tolist()


@pytest.mark.parametrize("policy", [LocalAgreement(2, 4), Offline()], ids=lambda one: type(one).__name__)
def test_blocks_make_no_difference(model: Model, nemo: dict[str, np.ndarray], policy: Policy) -> None:
    whole, cut = (tokens(model.multi_session([("en-en", policy)]), nemo["waveform"], size) for size in (97_000, 777))
    assert whole == cut
    assert whole[0]


def test_two_prompts_equal_one_each(model: Model, nemo: dict[str, np.ndarray]) -> None:
    pairs = ("en-en", "en-de")
    both = tokens(model.multi_session([(pair, LocalAgreement(2, 12)) for pair in pairs]), nemo["waveform"], 8_000)
    alone = [tokens(model.multi_session([(pair, LocalAgreement(2, 12))]), nemo["waveform"], 8_000)[0] for pair in pairs]
    assert both == alone
    assert both[0] != both[1]


def test_policies_that_it_cannot_follow(model: Model) -> None:
    assert model.default_policy == LocalAgreement(2, 12)
    for policy in (WaitK(3, 4), AlignAtt(2, l=4)):
        with pytest.raises(
            ConfigError, match="a model with connector prepend cannot follow it; use offline, local-agr"
        ):
            model.multi_session([("en-en", policy)])


def test_speech_is_run_once(model: Model, nemo: dict[str, np.ndarray]) -> None:
    """Each step of speech goes through the LLM once, however often a text about it is tried."""
    encoder = model.open_encoder(model.graphs, [LocalAgreement(2, 12)], 13)
    listener, decoder = Listener(encoder, None), model.open_decoder(model.graphs, [prompt(model)])
    listener.add(nemo["waveform"])
    listener.end()
    ran: list[int] = []
    run = decoder._llm.run

    def counted(feeds: Mapping[str, Buffer], number: int) -> Mapping[str, Buffer]:
        ran.append(feeds[INPUTS_EMBEDS].shape[1])
        return run(feeds, number)

    decoder._llm.run = counted
    chunks = 0
    while listener.has_chunk:
        decoder.hear(listener.next_chunk())
        with decoder.rehearsal():
            write(decoder, 3)
        chunks += 1
    behind = len(prompt(model)) - 1 - prompt(model).index(prepend(model.config).speech_token)
    assert chunks > 4
    assert sum(ran) == len(nemo["encoded"]) + chunks * (behind - 1 + 3)


def test_seeing_less_than_was_heard(model: Model, nemo: dict[str, np.ndarray]) -> None:
    """A token that sees 30 steps is that of a stream that ended there."""
    decoder = heard(model, nemo["waveform"], [prompt(model), prompt(model, "en-de")])
    write(decoder, 2)
    seen = heard(model, nemo["waveform"], [prompt(model), prompt(model, "en-de")])
    seen._speech = replace(seen._speech, embeds=seen._speech.embeds[:30], heard=30)
    fresh = heard(model, nemo["waveform"], [prompt(model), prompt(model, "en-de")])
    early = write(fresh, 4, visible=30)
    assert early == write(seen, 4)
    late = heard(model, nemo["waveform"], [prompt(model), prompt(model, "en-de")])
    assert early != write(late, 4)


def test_rehearsals_leave_nothing_behind(model: Model, nemo: dict[str, np.ndarray]) -> None:
    want = write(heard(model, nemo["waveform"], [prompt(model)]), 6)
    decoder = heard(model, nemo["waveform"], [prompt(model)])
    with decoder.rehearsal():
        write(decoder, 3)
    first = write(decoder, 3)
    with decoder.rehearsal():
        write(decoder, 2, visible=20)
    assert first + write(decoder, 3) == want
    assert decoder.num_tokens.tolist() == [len(prompt(model)) - 2 + 6]  # without the token of the speech


def test_supposed_speech_is_forgotten(model: Model, nemo: dict[str, np.ndarray]) -> None:
    half = nemo["waveform"][:48_000]
    encoder = model.open_encoder(model.graphs, [Offline()], 13)
    listener, decoder = Listener(encoder, None), model.open_decoder(model.graphs, [prompt(model)])
    listener.add(half)
    (speech,) = listener.rest()
    with decoder.supposing([speech]):
        supposed = write(decoder, 1), decoder.heard
    decoder = model.open_decoder(model.graphs, [prompt(model)])
    decoder.hear(speech)
    want = write(decoder, 4)
    with decoder.supposing([]):
        pass
    listener.add(nemo["waveform"][48_000:])
    assert supposed[1] == decoder.heard
    decoder = model.open_decoder(model.graphs, [prompt(model)])
    decoder.hear(speech)
    before = write(decoder, 2)
    (longer,) = listener.rest()
    with decoder.supposing([longer]):
        assert decoder.heard == 76
        with decoder.rehearsal():
            write(decoder, 2)
    assert before + write(decoder, 2) == want


def test_rows_are_copied(model: Model, nemo: dict[str, np.ndarray]) -> None:
    decoder = heard(model, nemo["waveform"], [prompt(model), prompt(model, "en-de")])
    write(decoder, 2)
    decoder.take_rows([1, 1])
    assert all(left == right for left, right in write(decoder, 3))


def test_branches_hear_the_same(model: Model, nemo: dict[str, np.ndarray]) -> None:
    decoder = heard(model, nemo["waveform"], [prompt(model)])
    assert write(decoder.branch([prompt(model)] * 2), 3) == [token * 2 for token in write(decoder, 3)]


def test_without_an_alignment(model: Model, nemo: dict[str, np.ndarray]) -> None:
    attempt = heard(model, nemo["waveform"], [prompt(model)]).attempt([50])[0]
    assert attempt.span() == (50, 50)
    with pytest.raises(RuntimeError, match="shows no alignment"):
        attempt.alignment  # noqa: B018 - it raises
    assert np.isclose(attempt.log_probs[attempt.token_id], attempt.log_prob, atol=1e-4)


@pytest.mark.parametrize("policy", [LocalAgreement(2, 12), Offline()], ids=lambda one: type(one).__name__)
def test_longer_speech_is_cut_at_a_pause(model: Model, nemo: dict[str, np.ndarray], policy: Policy) -> None:
    """Half a second of silence begins at 4.96 s: the first segment, of at most 6 s, ends in it."""
    waveform = np.tile(nemo["waveform"][:96_000], 2)
    waveform[79_360:87_360] *= 1e-4
    session = model.session(source="en", policy=policy, segments=SegmentConfig(max_s=6.0))
    starts = []
    for block in np.split(waveform, 24):
        session.feed(block)
        starts.append(session.segment_start_s)
    session.finish()
    assert starts[11] == 0.0
    assert 4.96 < max(starts) < 5.46, starts
    assert session.segment_start_s >= max(starts)


def test_speech_takes_room_in_the_context(model: Model) -> None:
    with pytest.raises(
        ConfigError, match=r"speech of 2564 positions \(max_s 200\) and the prompt of \d+ leave no room in"
    ):
        model.session(source="en", policy=Offline(), segments=SegmentConfig(max_s=200.0))
