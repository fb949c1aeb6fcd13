"""The words of a written text as recordings write them down: which, where they stand, when a synthesiser says them.

Knows texts and seconds, not how they are spoken.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

READ_ALOUD = set("#%&*/@\\_\u00a7\u2020\u2021\u2022")  # punctuation that is not passed over
WORD = re.compile(r"\w+(?:'\w+)*")
Span = tuple[float, float]
"""Start and end, seconds."""


def plain(text: str) -> str | None:
    """Return a text as recordings are written down: words in lower case, apostrophes within them, nothing else.

    None where it has more than words, such as digits and symbols: nobody knows how they are read.
    """
    text = composed(text)
    if not all(letter.isalpha() or letter.isspace() or _is_silent(letter) for letter in text):
        return None
    return " ".join(word.group().lower() for word in WORD.finditer(text))


def composed(text: str) -> str:
    """Return a text in Unicode's form NFC with plain apostrophes, in which `word_times` counts letters."""
    return unicodedata.normalize("NFC", text).replace("\u2019", "'")


def word_times(text: str, marks: Sequence[tuple[int, float, float]]) -> list[Span]:
    """Return when each word of `plain(text)` is heard.

    Words without a mark, such as the second one of "of the" where both are said as one, share the span of the mark
    before by letters. Marks within a word lengthen it.

    Args:
        text: as `composed` returns it.
        marks: place in the text, start and end in seconds of what was said, in order; at least one.
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
