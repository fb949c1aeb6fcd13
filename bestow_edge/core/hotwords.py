"""Hotwords: names and terms that a session prefers to words that sound alike. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bestow_edge.core.errors import PromptError

DEFAULT_WEIGHT = 4.0
"""Of docs/hotwords.md: more names are found, and no more of the other words are wrong."""
MOST_WEIGHT = 20.0
MOST_HOTWORDS = 1000
FILE_ENDING = ".txt"
WEIGHT_MARK = " :"
_FORM = "a word, or a word and its weight such as `Heidelberg :4.5`"


@dataclass(frozen=True, slots=True)
class Hotword:
    """A name or a term of one word or several, as the text shall have it."""

    text: str
    """The word."""
    weight: float = DEFAULT_WEIGHT
    """Bonus of each of its tokens, nats; 0 = none."""

    def __post_init__(self) -> None:
        """Check both, and write any white space in the word as one space.

        Raises:
            PromptError: if the word is empty or the weight out of range.
        """
        object.__setattr__(self, "text", " ".join(self.text.split()))
        if not self.text:
            raise PromptError("a hotword is empty; write a word or leave it out")
        if not isinstance(self.weight, int | float) or not 0 <= self.weight <= MOST_WEIGHT:
            raise PromptError(f"hotword {self.text!r:.60}: weight {self.weight}, expected 0 to {MOST_WEIGHT:g}")


def check_hotwords(hotwords: Sequence[Hotword | str]) -> tuple[Hotword, ...]:
    """Return hotwords, those that are only words with the default weight.

    Raises:
        PromptError: if they are one string, too many, or one is wrong or given twice.
    """
    if isinstance(hotwords, str):
        raise PromptError(f"hotwords {hotwords!r:.60}: expected a list of words, such as [{hotwords!r:.60}]")
    if len(hotwords) > MOST_HOTWORDS:
        raise PromptError(f"{len(hotwords)} hotwords: expected at most {MOST_HOTWORDS}; leave out the least important")
    found = tuple(Hotword(word) if isinstance(word, str) else word for word in hotwords)
    texts = [word.text for word in found]
    if len(set(texts)) < len(texts):
        twice = next(text for index, text in enumerate(texts) if text in texts[:index])
        raise PromptError(f"hotword {twice!r:.60} is given twice; give each word once")
    return found


def read_hotwords(given: str, weight: float = DEFAULT_WEIGHT) -> tuple[Hotword, ...]:
    """Read hotwords as a person gives them.

    Args:
        given: words between commas, or the path of a file that ends in `.txt` and has a word on each line. A word may
            carry a weight of its own, as in `Heidelberg :4.5`.
        weight: of the others.

    Raises:
        PromptError: if the file cannot be read, there are no words, or `check_hotwords` refuses them.
    """
    is_file = given.strip().endswith(FILE_ENDING)
    entries = _lines(Path(given.strip())) if is_file else given.split(",")
    found = [_parse(entry, weight) for entry in entries if entry.strip()]
    if not found:
        raise PromptError(f"hotwords {given!r:.60}: expected at least one, {_FORM}; or leave out the option")
    return check_hotwords(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(
            f"{path}: cannot be read ({error}); expected a UTF-8 text with a hotword on each line"
        ) from error


def _parse(entry: str, weight: float) -> Hotword:
    text, mark, number = entry.rpartition(WEIGHT_MARK)
    if not mark:
        return Hotword(entry, weight)
    try:
        own_weight = float(number)
    except ValueError as error:
        raise PromptError(f"hotword {entry.strip()!r:.60}: {number!r:.20} is no weight; expected {_FORM}") from error
    return Hotword(text, own_weight)
