"""The language of a stream: its prompts name it, or it is detected in its first words.

Until the first token is written, each encoding is asked for the most probable language; then it is settled. The first
token waits until enough has been heard behind the place where it is spoken, so silence before the speech counts not.
"""

from __future__ import annotations

from collections.abc import Sequence

from bestow_edge.runtime.decoders.base import Attempt, Decoder

LEAST_STEPS = 38  # 3 s from the begin of the first word


def detect(decoder: Decoder, start: Sequence[int], languages: Sequence[str]) -> str:
    """Return the most probable language of the speech that a decoder has heard; the decoder does not change.

    Args:
        decoder: it has heard some speech.
        start: token ids of `ChatTemplate.before`.
        languages: those of `ConnectorConfig.detects`.
    """
    (attempt,) = decoder.branch([start]).attempt([decoder.heard])
    return languages[int(attempt.languages.argmax())]


def is_early(attempt: Attempt) -> bool:
    """Return whether too little has been heard since the word of an attempt began to settle the language."""
    return attempt.visible_steps - attempt.span()[0] < LEAST_STEPS
