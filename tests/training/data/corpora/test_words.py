"""Words of written texts: which recordings write down, and when they are heard."""

import pytest

from bestow_edge.training.data.corpora.words import composed, plain, word_times
from bestow_edge.training.synthesis.espeak import END, PHONEME, WORD, Moment, word_spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t stop \u2013 now!", "don't stop now"),
        ("„Grüß Gott“, sagte der Müller-Bursche …", "grüß gott sagte der müller bursche"),
        ("'Tis the students' own.", "tis the students own"),
        ("rock''n'roll", "rock n'roll"),
        ("  \t? ", ""),
        ("Cafe\u0301", "café"),
        ("He has 2 cats.", None),
        ("ten % of it", None),
        ("this & that", None),
        ("a + b", None),
        ("five €", None),
    ],
)
def test_plain_words(text: str, words: str | None) -> None:
    assert plain(text) == words


@pytest.mark.parametrize(
    ("text", "marks", "times"),
    [
        ("a bc", [(0, 0.1, 0.2), (2, 0.3, 0.5)], [(0.1, 0.2), (0.3, 0.5)]),
        ("of the men", [(0, 0.0, 0.5), (7, 0.5, 1.0)], [(0.0, 0.2), (0.2, 0.5), (0.5, 1.0)]),  # two words as one
        ("n'est-ce", [(0, 0.0, 0.2), (1, 0.2, 0.4)], [(0.0, 0.4 * 5 / 7), (0.4 * 5 / 7, 0.4)]),  # one word as two
        ("\u201eso\u201c \u2013 ja", [(5, 0.0, 0.2)], [(0.0, 0.1), (0.1, 0.2)]),  # the first one has no mark
        ("so - ja", [(0, 0.0, 0.2), (3, 0.3, 0.4)], [(0.0, 0.2), (0.3, 0.4)]),  # marked at the dash
        ("so.", [(0, 0.0, 0.2), (2, 0.3, 0.4)], [(0.0, 0.4)]),
        ("Cafe\u0301 la", [(0, 0.0, 0.2), (5, 0.2, 0.4)], [(0.0, 0.2), (0.2, 0.4)]),
    ],
)
def test_word_times(text: str, marks: list[tuple[int, float, float]], times: list[tuple[float, float]]) -> None:
    assert word_times(composed(text), marks) == [pytest.approx(span) for span in times]


def test_spans_of_espeak_words() -> None:
    moments: list[Moment] = [
        (WORD, 1, 0, b""),
        (PHONEME, 1, 10, b"t"),
        (PHONEME, 1, 20, b"_|"),  # a stop within the word
        (PHONEME, 1, 20, b"0"),
        (WORD, 5, 30, b""),  # begins where the first word ends, and is silent for 5 samples
        (PHONEME, 5, 35, b"g"),
        (PHONEME, 5, 50, b"_:"),
        (PHONEME, 5, 60, b"_"),
        (END, 5, 60, b""),
        (WORD, 9, 70, b""),  # no sound of its own
        (WORD, 12, 70, b""),
        (PHONEME, 12, 72, b"a"),
        (WORD, 0, 90, b""),  # the empty word at the end of some texts
    ]
    assert word_spans(moments, 100) == [(0, 10, 30), (4, 35, 50), (8, 70, 70), (11, 72, 100)]
    assert word_spans([], 100) == []
