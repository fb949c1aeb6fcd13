"""Several texts about one stream, drafts, other policies, beams, full segments: each against the plain session."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scripted import DecoderAround, ScriptedModel

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import ConfigError, SessionError
from bestow_edge.core.policy import AlignAtt, LocalAgreement, Offline, Policy, View, WaitK
from bestow_edge.core.prompts import parse_pair
from bestow_edge.runtime import Event, SegmentEvent, TextEvent, stream
from bestow_edge.runtime.decoders.base import Attempt, Decoder
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.answer import LOOP_TOKENS, Answer, Word
from bestow_edge.runtime.stream.session import Session

Floats = npt.NDArray[np.float32]
PROMPTS: list[tuple[str, Policy]] = [
    ("de-de", WaitK(1, 2)),
    ("en-de", WaitK(4, 1)),
    ("de-en", AlignAtt(2, l=2)),
    ("en-en", LocalAgreement(2, 3)),
]


def texts(events: list[Event], prompt: int = 0) -> list[TextEvent]:
    return [event for event in events if isinstance(event, TextEvent) and event.prompt == prompt]


def hear(session: Session, samples: Floats, block: int = 1600) -> list[Event]:
    return list(stream(session, iter(np.array_split(samples, max(1, samples.size // block)))))


@pytest.mark.parametrize("lookahead", [13, 1])
def test_prompts_of_a_batch_are_what_each_is_alone(pausing_model: Model, speech: Floats, lookahead: int) -> None:
    """Token for token and probability for probability: prompts, policies and answers differ in length."""
    samples = speech[: 4 * 16000]
    options: dict[str, Any] = {"lookahead": lookahead, "segments": SegmentConfig(pause_s=0)}
    together = hear(pausing_model.multi_session(PROMPTS, **options), samples)
    lengths = set()
    for index, prompt in enumerate(PROMPTS):
        alone = texts(hear(pausing_model.multi_session([prompt], **options), samples))
        got = texts(together, index)
        assert [(e.token_ids, e.heard_s, e.start_s) for e in got] == [
            (e.token_ids, e.heard_s, e.start_s) for e in alone
        ]
        np.testing.assert_allclose([e.log_prob for e in got], [e.log_prob for e in alone], atol=1e-5)
        lengths.add(len(got))
    assert len(lengths) > 1


def test_finalized_text_is_append_only(pausing_model: Model, speech: Floats) -> None:
    """What was written while listening is the beginning of what is written in the end, for every policy."""
    for _, policy in PROMPTS:
        session = pausing_model.session(source="de", policy=policy, segments=SegmentConfig(pause_s=0))
        events = session.feed(speech[:48000])
        whole = hear(pausing_model.session(source="de", policy=policy, segments=SegmentConfig(pause_s=0)), speech)
        assert whole[: len(events)] == events


def test_a_draft_is_what_comes_if_the_audio_ends_now(pausing_model: Model, speech: Floats) -> None:
    drafted = 0
    for seconds in (0.01, 0.5, 1.0, 1.7, 2.9):
        samples = speech[: int(seconds * 16000)]
        session = pausing_model.session(source="de", k=30, l=1, lookahead=6, segments=SegmentConfig(pause_s=0))
        said = "".join(event.text for event in session.feed(samples))
        draft = session.draft()
        assert session.draft() == draft
        offline = pausing_model.session(source="de", policy=Offline(), lookahead=6, segments=SegmentConfig(pause_s=0))
        assert said + draft == "".join(event.text for event in hear(offline, samples))
        drafted += len(draft)
        rest = "".join(event.text for event in [*session.feed(speech[samples.size : 64000]), *session.finish()])
        undisturbed = pausing_model.session(source="de", k=30, l=1, lookahead=6, segments=SegmentConfig(pause_s=0))
        assert said + rest == "".join(event.text for event in hear(undisturbed, speech[:64000]))
    assert drafted > 10
    with pytest.raises(SessionError, match="the session was finished"):
        session.draft()


def test_a_policy_of_your_own(pausing_model: Model, speech: Floats) -> None:
    seen: list[View] = []

    class Picky(Policy):
        def accepts(self, view: View) -> bool:
            seen.append(view)
            return view.token_id % 4 == 0 or view.refusals >= 2

    events = texts(hear(pausing_model.session(source="de", policy=Picky(), segments=SegmentConfig(pause_s=0)), speech))
    assert events
    assert {view.refusals for view in seen} == {0, 1, 2}
    for view in seen:
        weights = view.attention(-1)
        assert weights.shape == view.attention(0).shape == (view.visible_steps,)
        assert 0 < weights.sum() < 1  # the rest is the null frame's
        assert view.drafts == ()


def test_local_agreement_writes_what_drafts_agree_on(model: Model, speech: Floats) -> None:
    """A patient policy writes a part of what the eager one has drafted; both end with the offline text or their own."""
    eager = texts(
        hear(model.session(source="de", policy=LocalAgreement(2, 2), segments=SegmentConfig(pause_s=0)), speech[:48000])
    )
    patient = texts(
        hear(model.session(source="de", policy=LocalAgreement(4, 2), segments=SegmentConfig(pause_s=0)), speech[:48000])
    )
    assert eager
    assert patient
    assert eager[0].heard_s <= patient[0].heard_s


@pytest.mark.parametrize("block", [160, 5000, 10**6])
def test_a_full_segment_goes_on_behind_its_last_word(
    remake_model: Callable[..., Model], speech: Floats, block: int
) -> None:
    model = remake_model(end_ids=tuple(range(0, 300, 3)))
    events = hear(
        model.session(source="de", k=2, l=2, lookahead=1, segments=SegmentConfig(max_tokens=5)), speech, block
    )
    assert events == hear(
        model.session(source="de", k=2, l=2, lookahead=1, segments=SegmentConfig(max_tokens=5)), speech, 777
    )
    segments = [event.segment for event in events]
    assert segments == sorted(segments)
    assert segments[-1] > 2
    for segment in range(segments[-1] + 1):
        own = [event for event in events if event.segment == segment]
        assert (own[0].__class__, own[-1].__class__) == (SegmentEvent, SegmentEvent)
        assert sum(len(event.token_ids) for event in own if isinstance(event, TextEvent)) <= 5


def test_a_segment_is_told_the_end_of_the_one_before(pausing_model: Model, speech: Floats) -> None:
    model = ScriptedModel(pausing_model, pausing_model.open_decoder)
    options: dict[str, Any] = {
        "k": 2,
        "l": 2,
        "lookahead": 1,
        "segments": SegmentConfig(max_tokens=5, context_tokens=3),
    }
    events = texts(hear(model.session(source="de", **options), speech))
    prompt = model.prompt_ids(parse_pair("de-de"))
    written = [
        tuple(token for event in events if event.segment == segment for token in event.token_ids)
        for segment in range(events[-1].segment + 1)
    ]
    assert len(written) > 2
    contexts = [ids[len(prompt) :] for (ids,) in model.prompts]
    assert all(ids[: len(prompt)] == prompt for (ids,) in model.prompts)
    assert [*dict.fromkeys(contexts)] == [(), *dict.fromkeys(own[-3:] for own in written[: len(set(contexts)) - 1])]


def test_a_beam_of_one_is_greedy_and_wider_ones_are_no_worse(model: Model, speech: Floats) -> None:
    def scored(size: int) -> tuple[list[int], float]:
        session = model.session(source="de", policy=Offline(), beam_size=size, segments=SegmentConfig(max_tokens=12))
        events = texts([event for event in hear(session, speech[:16000]) if event.segment == 0])
        tokens = [token for event in events for token in event.token_ids]
        return tokens, sum(event.log_prob for event in events) / max(1, len(tokens))

    greedy, greedy_score = scored(1)
    assert scored(2)[1] >= greedy_score - 1e-6
    assert scored(5)[1] >= greedy_score - 1e-6
    assert greedy


def test_rows_can_be_reordered_in_place(model: Model) -> None:
    prompts = [[1, 5, 6], [1, 7], [9, 8, 7, 6]]

    def logits(decoder: Decoder) -> list[Floats]:
        return [attempt.log_probs for attempt in decoder.attempt([0] * 3)]

    decoder = model.open_decoder(model.graphs, prompts)
    before = logits(decoder)
    decoder.take_rows([2, 0, 0])
    after = logits(decoder)
    for row, source in enumerate([2, 0, 0]):
        assert np.array_equal(after[row], before[source])
    other = model.open_decoder(model.graphs, [prompts[1]])
    np.testing.assert_allclose(other.attempt([0])[0].log_probs, before[1], atol=1e-5)


def test_a_loop_ends_the_answer(model: Model, speech: Floats) -> None:
    """A model that says one thing over and over while it looks at one place is stopped."""

    class StuckDecoder(DecoderAround):
        def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
            alignment = np.zeros((2, max(visible_steps) + 1), dtype=np.float32)
            alignment[:, 3:4] = 1
            attempts = self.decoder.attempt(visible_steps)
            return [replace(item, token_id=7, read_alignment=lambda: alignment) for item in attempts]

    stuck = ScriptedModel(model, lambda *segment: StuckDecoder(model.open_decoder(*segment)))
    session = stuck.session(source="de", policy=Offline())
    hear(session, speech)
    assert len(session._answers.all[0].words) == LOOP_TOKENS


def words(ids: Sequence[int], steps: Sequence[int]) -> list[Word]:
    return [Word(token_id, -0.1, step, step + 2, 400) for token_id, step in zip(ids, steps, strict=True)]


@pytest.mark.parametrize(
    ("period", "moved", "loop"),
    [
        (1, 0, True), (1, 1, False), (3, 1, True), (3, 2, False),  # steps from copy to copy
        (7, 3, True), (8, 3, True), (8, 4, False), (12, 5, True), (30, -4, True), (30, 14, True), (30, 60, False),
    ],
)  # fmt: skip
def test_a_loop_is_a_repetition_about_the_same_place(period: int, moved: int, loop: bool) -> None:
    number = max(LOOP_TOKENS, 2 * period)
    before = words([900, 901], [0, 1])
    steps = [10 + 4 * (n % period) + moved * (n // period) for n in range(number)]
    looping = words([n % period for n in range(number)], steps)
    answer = Answer(Offline(), 500, words=before + looping)
    assert answer.loops() == loop
    answer.words.pop()
    assert not answer.loops()  # one token less
    answer.words.append(replace(looping[-1], token_id=77))
    assert not answer.loops()


@pytest.mark.parametrize(("period", "copies", "loop"), [(8, 2, False), (8, 3, False), (8, 4, True), (1, 16, True)])
def test_without_a_place_a_sentence_may_be_said_twice(period: int, copies: int, loop: bool) -> None:
    """All words of such an answer stand at the end of the speech."""
    repeated = words([n % period for n in range(period * copies)], [400] * (period * copies))
    assert Answer(Offline(), 500, aligned=False, words=repeated).loops() == loop
    assert Answer(Offline(), 500, words=repeated).loops()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0, 0.1, 0.5, 0.3, 0.01, 0], (1, 4)), ([0.9, 0], (0, 1)), ([0.2, 0.2, 0.6], (0, 2)), ([0.3], (5, 5))],
)
def test_a_word_lies_around_its_peak(weights: list[float], expected: tuple[int, int]) -> None:
    alignment = np.array([weights], dtype=np.float32)
    attempt = Attempt(7, -0.1, max(expected[1], len(weights) - 1), lambda: alignment[0], lambda: alignment)
    assert attempt.span() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 5}, r"beam_size 5: expected 1, or more with Offline\(\)"),
        ({"beam_size": 0, "policy": Offline()}, "beam_size 0"),
    ],
)
def test_wrong_options(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.session(source="de", **options)
    with pytest.raises(ConfigError, match="0 prompts"):
        model.multi_session([])
