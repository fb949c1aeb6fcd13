"""Random windows of long utterances with known word times. numpy only.

They look like the segments into which streamed speech is cut. A window is an utterance with an offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bestow_edge.core.utterances import Utterance

BORDER_S = 0.05  # aligned times of words may be too early by this much
CUT_S = 0.1  # a word that ends within this of the window's end may be cut off, so it is left out
AT_WORDS = 0.6  # share of windows that begin between two words, and of those that end there; others do anywhere
BEFORE_S, BEHIND_S = (0.0, 0.15), (0.2, 0.5)  # audio before the first and after the last word of the former


def cut_window(item: Utterance, rng: np.random.Generator, limits_s: Sequence[float]) -> Utterance:
    """Return a random part of an utterance, of a length within `limits_s`, with the words that lie in it.

    The utterance is returned unchanged if it has no word times or transcript, is not longer than the longest window, or
    the window holds no whole word.
    """
    words = (item.transcript or "").split()
    if not words or len(words) != len(item.word_times) or item.duration_s <= limits_s[1]:
        return item
    length_s = rng.uniform(limits_s[0], limits_s[1])
    start_s = rng.uniform(0, item.duration_s - length_s)
    if rng.random() < AT_WORDS:
        first = int(rng.integers(len(words)))
        before_s = item.word_times[first - 1][1] if first else 0.0
        start_s = max(0.0, (before_s + item.word_times[first][0]) / 2 - rng.uniform(*BEFORE_S))
    end_s = min(item.duration_s, start_s + length_s)
    inside = [
        number
        for number, (begins, ends) in enumerate(item.word_times)
        if begins >= start_s - BORDER_S and ends <= end_s - CUT_S
    ]
    if not inside:
        return item
    if rng.random() < AT_WORDS:
        end_s = min(end_s, item.word_times[inside[-1]][1] + rng.uniform(*BEHIND_S))
    spans = np.clip(np.array([item.word_times[number] for number in inside]) - start_s, 0, end_s - start_s)
    return replace(
        item,
        offset_s=item.offset_s + start_s,
        duration_s=end_s - start_s,
        texts={item.source_lang: " ".join(words[number] for number in inside)},
        word_times=tuple((begins, ends) for begins, ends in spans.tolist()),
    )
