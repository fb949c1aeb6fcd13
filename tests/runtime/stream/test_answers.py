"""When the texts of a segment are over: by the speech that any of their words is about, not by the last word's."""

from bestow_edge.core.policy import WaitK
from bestow_edge.runtime.stream.answer import Answer, Word
from bestow_edge.runtime.stream.answers import Answers
from bestow_edge.runtime.stream.segments import Limits

LIMITS = Limits(pause_steps=18, most_steps=250, most_tokens=60)


def answers(*ends: int) -> Answers:
    """One text whose words end at these steps."""
    answer = Answer(policy=WaitK(3, 4), most_tokens=60)
    answer.words = [Word(number, -0.1, end - 2, end, 60) for number, end in enumerate(ends)]
    return Answers([answer], LIMITS, first=True)


def test_a_translation_whose_last_word_was_said_first_is_not_over_early() -> None:
    translated = answers(5, 58, 8)  # the verb comes last and was said at the beginning
    assert (translated.heard_ends(), translated.word_ends()) == ([58], [8])
    assert not translated.ended_early(60)


def test_a_text_about_the_beginning_alone_is_over_early() -> None:
    assert answers(5, 8, 40).ended_early(60)
    assert not answers(5, 8, 43).ended_early(60)
    assert not answers().ended_early(60)
