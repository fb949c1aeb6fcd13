"""Questions about speech: prompts as in training, answers as in single sessions, segments as the texts have them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import ConfigError, PromptError
from bestow_edge.core.policy import AlignAtt, Offline, Policy, WaitK
from bestow_edge.core.prompts import AboutSpeech, Pair, Question
from bestow_edge.runtime import Event, SegmentEvent, TextEvent, stream
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.replay import replay
from bestow_edge.runtime.records.trace import Tracer, read_trace
from bestow_edge.runtime.stream.session import Session

Floats = npt.NDArray[np.float32]
RATE_HZ = 16_000
WHO, WHAT = Question("en", "Who spoke?"), Question("en", "What was found?")
MIXED: list[tuple[AboutSpeech, Policy]] = [
    (Pair("en", "en"), WaitK(2, 4)),
    (WHO, Offline()),
    (WHAT, WaitK(3, 2)),
    (Pair("en", "de"), Offline()),
    (Question("en", "Which of all the things that were said comes first?"), AlignAtt(2, l=2)),
]


@pytest.fixture(scope="module")
def asked_model(model: Model, remake_model: Callable[..., Model]) -> Model:
    """The tiny bundle as if it had been trained for questions; one in nine of its tokens ends a text."""
    config = replace(model.config, questions=("en",))
    return remake_model(model=config, end_ids=tuple(range(0, 300, 9)))


def hear(session: Session, samples: Floats) -> list[Event]:
    return list(stream(session, iter(np.array_split(samples, max(1, samples.size // 1600)))))


def texts(events: list[Event], prompt: int = 0) -> list[tuple[object, ...]]:
    found = [event for event in events if isinstance(event, TextEvent) and event.prompt == prompt]
    return [(event.token_ids, event.heard_s, event.start_s, event.segment) for event in found]


@pytest.mark.parametrize("text", ["What was found?", "  Wer\n sprach   zuletzt? ", "é ß 数 🙂 one two", "x"])
def test_the_prompt_is_the_one_of_training(asked_model: Model, text: str) -> None:
    from bestow_edge.training.data.tokens import prompt_ids

    wanted = prompt_ids(asked_model.tokenizer, Question("en", text), asked_model.config.chat)
    assert asked_model.prompt_ids(Question("en", text)) == tuple(wanted)
    with asked_model.session(source="en", ask=text) as session:
        assert session.prompts[0].asked == Question("en", text)
        assert session.num_tokens == len(wanted) - 1  # the last one is the first query


def test_answers_of_one_session_are_those_of_single_ones(asked_model: Model, speech: Floats) -> None:
    options: dict[str, Any] = {"segments": SegmentConfig(pause_s=0), "lookahead": 6}
    together = hear(asked_model.multi_session(MIXED, **options), speech)
    answered = 0
    for row, prompt in enumerate(MIXED):
        alone = texts(hear(asked_model.multi_session([prompt], **options), speech))
        assert texts(together, row) == alone
        answered += bool(alone)
    assert answered >= 4
    asked = asked_model.session(source="en", ask=WHO.text, **options)
    assert texts(hear(asked, speech)) == texts(together, 1)
    assert asked.prompts[0].policy == Offline()


def test_what_says_when_a_question_is_answered(asked_model: Model) -> None:
    def policy(**options: Any) -> Policy:
        return asked_model.session(source="en", ask="Who?", **options).prompts[0].policy

    assert policy() == policy(lookahead=1) == Offline()
    assert policy(k=3) == WaitK(3, 4)
    assert policy(latency_s=2.0) == WaitK(3, 4)
    assert policy(policy=AlignAtt()) == AlignAtt()
    beam = asked_model.session(source="en", ask="Who?", beam_size=3)
    assert len(hear(beam, np.zeros(RATE_HZ, np.float32))) > 0


def test_texts_are_what_they_are_without_questions(asked_model: Model, speech: Floats) -> None:
    """Segments end by the texts; each that has words is asked about, and the rest of the audio if it has any."""
    samples = np.concatenate([speech, np.zeros(3 * RATE_HZ, np.float32), speech[::-1], speech])
    for policy in (WaitK(2, 4), Offline()):
        options: dict[str, Any] = {"segments": SegmentConfig(pause_s=1.2, max_s=3.0), "lookahead": 1}
        alone = hear(asked_model.multi_session([("en-en", policy)], **options), samples)
        both = hear(asked_model.multi_session([("en-en", policy), (WHO, Offline())], **options), samples)
        assert texts(both) == texts(alone)
        segments = {segment for *_, segment in texts(both)}
        assert len(segments) > 2
        assert {segment for *_, segment in texts(both, 1)} <= segments
        assert len({segment for *_, segment in texts(both, 1)}) > 1


def test_a_question_alone_is_asked_about_each_full_segment(asked_model: Model, speech: Floats) -> None:
    options: dict[str, Any] = {"source": "en", "ask": WHO.text, "lookahead": 6}
    session = asked_model.session(**options, segments=SegmentConfig(pause_s=0, max_s=3.0))
    events = session.feed(speech)
    events += session.finish()
    answers = [event for event in events if isinstance(event, TextEvent)]
    assert len({event.segment for event in answers}) > 1
    assert sum(isinstance(event, SegmentEvent) and event.kind == "end" for event in events) > 1
    whole = asked_model.session(**options, segments=SegmentConfig(pause_s=0))
    drafted_s = answers[0].heard_s
    assert 3.0 <= drafted_s < 3.6
    whole.feed(speech[: round((drafted_s + 0.01) * RATE_HZ)])  # its last chunk is not complete before the next frame
    assert whole.heard_s == drafted_s
    first = list(whole._rehearse(0, whole._decoder.heard))
    assert [i for event in answers if event.segment == 0 for i in event.token_ids] == [one.token_id for one in first]


def test_an_answer_may_be_longer_than_speech(remake_model: Callable[..., Model], model: Model) -> None:
    config = replace(model.config, questions=("en",))
    endless = remake_model(model=config, end_ids=(299,))  # which it never writes
    samples = np.random.default_rng(0).standard_normal(RATE_HZ // 4).astype(np.float32) * 0.1
    spoken = texts(hear(endless.session(source="en", policy=Offline()), samples))
    answer = texts(hear(endless.session(source="en", ask="Who?"), samples))
    num_spoken, num_answered = (sum(len(ids) for ids, *_ in rows) for rows in (spoken, answer))  # type: ignore[misc, arg-type, var-annotated]
    assert 8 < num_spoken <= 4 + 8
    assert num_answered > num_spoken


def test_questions_alone_hear_more_than_a_segment(asked_model: Model, remake_model: Callable[..., Model]) -> None:
    short = replace(asked_model.config, segments=SegmentConfig(pause_s=2.0, max_s=3.0))
    with_limit = remake_model(model=short)
    assert with_limit.session(source="en", ask="Who spoke?").segments == SegmentConfig(pause_s=2.0, max_s=0.0)
    assert with_limit.multi_session([(WHO, Offline()), ("en-en", Offline())]).segments.max_s == 3.0
    given = SegmentConfig(pause_s=2.0, max_s=5.0)
    assert with_limit.session(source="en", ask="Who spoke?", segments=given).segments == given


def test_a_trace_keeps_questions(asked_model: Model, speech: Floats, tmp_path: Path) -> None:
    path = tmp_path / "asked.trace"
    with Tracer(asked_model.multi_session(MIXED), path) as session:
        for block in np.array_split(speech, 20):
            session.feed(block)
        session.finish()
    trace = read_trace(path)
    assert [prompt.asked for prompt in trace.header.prompts] == [asked for asked, _ in MIXED]
    assert trace.policies == [policy for _, policy in MIXED]
    assert replay(trace, asked_model) == list(trace.events)


def test_what_cannot_be_asked(model: Model, asked_model: Model) -> None:
    for make, message in [
        (lambda: model.session(source="en", ask="Who?"), "this model was not trained to answer questions about speech"),
        (
            lambda: model.multi_session([("en-en", Offline()), (WHO, Offline())]),
            "not trained to answer questions about speech; ask one that was: `bestow-edge inspect` tells",
        ),
        (lambda: asked_model.session(source="de", ask="Wer?"), "speech in de: this model answers questions about en"),
        (lambda: asked_model.session(source="xx", ask="Who?"), "language 'xx': expected one of en"),
        (lambda: asked_model.session(source="en", ask=" \n "), "the question is empty; write one"),
        (
            lambda: asked_model.session(source="en", ask="Who? " * 100),
            "is too long: its prompt has .* may take 184; ask",
        ),
        (
            lambda: asked_model.session(source="en", ask="a</s>b"),
            "holds </s>, which the LLM's prompts use; leave it out",
        ),
    ]:
        with pytest.raises(PromptError, match=message):
            make()
    for options in ({"target": "de"}, {"task": "transcribe"}):
        with pytest.raises(ConfigError, match="give either ask or task and target, not both"):
            asked_model.session(source="en", ask="Who?", **options)  # type: ignore[arg-type]  # several types
