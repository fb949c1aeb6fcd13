"""When the words of an utterance are heard: from the manifest, estimated, or carried over to a translation.

Knows texts, tokens and seconds. Estimates assume an even pace, and a translation in the order of the speech: good
enough for when a token may be written, not for where its word is.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.training.data.composition import active_range

Spans = npt.NDArray[np.float64]
WORD = re.compile(r"\S+")


def estimated_times(text: str, waveform: npt.NDArray[np.float32], rate_hz: int) -> Spans:
    """Spread the words of a text over the sound of a recording, each as long as its share of the letters.

    Args:
        text: what is said.
        waveform: (samples,).
        rate_hz: its rate.

    Returns:
        (words, 2) start and end, seconds.
    """
    first, last = (edge / rate_hz for edge in active_range(waveform, rate_hz))
    ends = _letter_shares(text)
    shares = np.stack([np.concatenate([[0.0], ends[:-1]]), ends], axis=1) if ends.size else np.zeros((0, 2))
    return np.asarray(first + shares * (last - first))


def tokens_with_times(tokenizer: Tokenizer, text: str, times_s: Spans) -> tuple[list[int], Spans, list[int]]:
    """Encode a text and give each token the time of its word.

    Args:
        tokenizer: the model's.
        text: what is said.
        times_s: (words, 2) start and end of each word.

    Returns:
        The token ids, (tokens, 2) start and end of each one's word, and the number of each one's word.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    starts = np.array([match.start() for match in WORD.finditer(text)])
    last_letters = np.array([end - 1 for _, end in encoding.offsets], dtype=np.int64)
    words = np.clip(np.searchsorted(starts, last_letters, side="right") - 1, 0, None)
    return encoding.ids, times_s[words].reshape(-1, 2), words.tolist()


def labels_with_times(labels: Tokenizer, text: str, times_s: Spans) -> list[tuple[list[int], float, float]]:
    """Return the labels, start and end of each word.

    Args:
        labels: the encoder's vocabulary.
        text: what is said.
        times_s: (words, 2) start and end of each word.
    """
    ids, _, numbers = tokens_with_times(labels, text, times_s)
    groups: list[list[int]] = [[] for _ in times_s]
    for label, number in zip(ids, numbers, strict=True):
        groups[number].append(label)
    return [(group, float(start), float(end)) for group, (start, end) in zip(groups, times_s, strict=True)]


def heard_translation(tokenizer: Tokenizer, text: str, spoken: str, times_s: Spans) -> tuple[list[int], Spans]:
    """Encode a translation and say when each token's part of the speech has been heard.

    Args:
        tokenizer: the model's.
        text: the translation.
        spoken: what is said.
        times_s: (words, 2) start and end of each word of it.

    Returns:
        The token ids, and (tokens,) seconds: the moment by which the same share of the spoken letters was heard.
    """
    count = len(text.split())
    if not count or not times_s.size:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids, np.full(len(ids), np.nan)
    said = np.concatenate([[0.0], _letter_shares(spoken)])
    moments = np.concatenate([times_s[:1, 0], times_s[:, 1]])
    ends_s = np.interp(_letter_shares(text), said, moments)
    ids, spans, _ = tokens_with_times(tokenizer, text, np.stack([ends_s, ends_s], axis=1))
    return ids, spans[:, 1]


def _letter_shares(text: str) -> npt.NDArray[np.float64]:
    """Return (words,) share of the letters up to the end of each word."""
    letters = np.cumsum([len(word) for word in text.split()], dtype=np.float64)
    return letters / letters[-1] if letters.size else letters
