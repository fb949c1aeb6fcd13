"""The words of a written text in the form of a transcript, and their times from the marks of a synthesiser."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

READ_ALOUD = set("#%&*/@\\_\u00a7\u2020\u2021\u2022")  # punctuation that is spoken
WORD = re.compile(r"\w+(?:'\w+)*")
Span = tuple[float, float]
"""Start and end, seconds."""


def plain(text: str) -> str | None:
    """Return a text in the form of a transcript: words in lower case with the apostrophes within them.

    None if it has digits or symbols, whose spoken form is unknown.
    """
    text = composed(text)
    if not all(letter.isalpha() or letter.isspace() or _is_silent(letter) for letter in text):
        return None
    return " ".join(word.group().lower() for word in WORD.finditer(text))


def composed(text: str) -> str:
    """Return a text in Unicode's form NFC with plain apostrophes, the form that `word_times` needs."""
    return unicodedata.normalize("NFC", text).replace("\u2019", "'")


def word_times(text: str, marks: Sequence[tuple[int, float, float]]) -> list[Span]:
    """Return start and end of each word of `plain(text)`, for a text as `composed` returns it.

    There is at least one mark: position in the text, start and end in seconds of a spoken word, in order. Words without
    a mark share the span of the mark before in proportion to their letters; espeak-ng speaks "of the" as one word, for
    example. Marks within a word extend it.
    """
    words = list(WORD.finditer(text))
    ends = [word.end() for word in words]
    marked: list[tuple[int, float, float]] = []  # number of the word, start, end
    for place, start, end in marks:
        number = min(bisect_right(ends, place), len(words) - 1) if marked else 0
        if marked and number <= marked[-1][0]:
            marked[-1] = (*marked[-1][:2], end)
        else:
            marked.append((number, start, end))
    times: list[Span] = []
    for (number, start, end), (following, *_) in zip(marked, [*marked[1:], (len(words), 0.0, 0.0)], strict=True):
        letters = np.cumsum([0, *(len(word.group()) for word in words[number:following])])
        edges = (start + (end - start) * letters / letters[-1]).tolist()
        times += pairwise(edges)
    return times


def _is_silent(letter: str) -> bool:
    return unicodedata.category(letter).startswith("P") and letter not in READ_ALOUD
