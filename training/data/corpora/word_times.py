"""Times of the words and tokens of an utterance: given, estimated, or mapped to a translation.

Estimates assume an even pace, and a translation in the order of the speech. That is exact enough to decide when a token
may be written, but not to tell the position of its word.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.training.data.composition import active_range
from bestow_edge.training.data.examples import Word
from bestow_edge.training.data.tokens import answer_ids

Spans = npt.NDArray[np.float64]
WORD = re.compile(r"\S+")


def estimated_times(text: str, waveform: npt.NDArray[np.float32], rate_hz: int) -> Spans:
    """Spread the words of a text over the sound of a recording, (samples,), in proportion to their letters.

    Returns:
        (words, 2) start and end, seconds.
    """
    first, last = (edge / rate_hz for edge in active_range(waveform, rate_hz))
    ends = _letter_shares(text)
    shares = np.stack([np.concatenate([[0.0], ends[:-1]]), ends], axis=1) if ends.size else np.zeros((0, 2))
    return np.asarray(first + shares * (last - first))


def tokens_with_times(tokenizer: Tokenizer, text: str, times_s: Spans) -> tuple[list[int], Spans, list[int]]:
    """Encode a text, and return the time of each token's word. `times_s` are start and end of each word, (words, 2).

    Returns:
        The token ids; (tokens, 2) start and end of each token's word; and the number of each token's word.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    starts = np.array([match.start() for match in WORD.finditer(text)])
    last_letters = np.array([end - 1 for _, end in encoding.offsets], dtype=np.int64)
    # A byte-level token may begin with the space before its word, so its last letter decides.
    words = np.clip(np.searchsorted(starts, last_letters, side="right") - 1, 0, None)
    return encoding.ids, times_s[words].reshape(-1, 2), words.tolist()


def labels_with_times(labels: Tokenizer, text: str, times_s: Spans) -> list[Word]:
    """Return the labels, start and end of each word of a transcript. `times_s` are start and end, (words, 2)."""
    ids, _, numbers = tokens_with_times(labels, text, times_s)
    groups: list[list[int]] = [[] for _ in times_s]
    for label, number in zip(ids, numbers, strict=True):
        groups[number].append(label)
    return [(group, float(start), float(end)) for group, (start, end) in zip(groups, times_s, strict=True)]


def heard_translation(tokenizer: Tokenizer, text: str, spoken: str, times_s: Spans) -> tuple[list[int], Spans]:
    """Encode a translation, and return the time by which each token's part of the speech has been heard.

    `times_s` are start and end of each word of the transcript `spoken`, (words, 2).

    Returns:
        The token ids, and (tokens,) seconds: the time at which the same share of the spoken letters has been heard.
    """
    count = len(text.split())
    if not count or not times_s.size:
        ids = answer_ids(tokenizer, text)
        return ids, np.full(len(ids), np.nan)
    shares = np.concatenate([[0.0], _letter_shares(spoken)])
    moments = np.concatenate([times_s[:1, 0], times_s[:, 1]])
    ends_s = np.interp(_letter_shares(text), shares, moments)
    ids, spans, _ = tokens_with_times(tokenizer, text, np.stack([ends_s, ends_s], axis=1))
    return ids, spans[:, 1]


def _letter_shares(text: str) -> npt.NDArray[np.float64]:
    """Return (words,) the share of letters up to the end of each word."""
    letters = np.cumsum([len(word) for word in text.split()], dtype=np.float64)
    return letters / letters[-1] if letters.size else letters
