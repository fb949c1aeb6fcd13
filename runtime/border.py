"""What of an answer surely lies before the end of a segment that was cut in the middle of speech. Knows tokens only."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from bestow_edge.runtime.decoder import Attempt
from bestow_edge.runtime.track import span

BORDER_STEPS = 8  # 0.64 s: a word heard up to here may be cut, or unlike what it is with the speech behind it
WORD_MARKS = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write the space before a word


def whole_words(attempts: Sequence[Attempt], visible: int, tokenizer: Tokenizer) -> list[Attempt]:
    """Return the first tokens of an answer, up to the last word that ends before the border.

    Args:
        attempts: the answer to the speech up to the cut.
        visible: steps of that speech.
        tokenizer: knows which tokens begin a word; where none does, the answer is cut at the border.
    """
    count = 0
    while count < len(attempts) and span(attempts[count].alignment[-1], visible)[1] <= visible - BORDER_STEPS:
        count += 1
    if count == len(attempts):
        return list(attempts)
    starts = [n for n in range(1, count + 1) if _begins_word(attempts[n], tokenizer)]
    return list(attempts[: max(starts, default=count)])


def _begins_word(attempt: Attempt, tokenizer: Tokenizer) -> bool:
    return str(tokenizer.id_to_token(attempt.token_id)).startswith(WORD_MARKS)
