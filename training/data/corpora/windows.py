"""A window cut out of an utterance by the times of its words, as a long speech is cut where it is streamed. numpy only.

Knows texts and seconds, not audio: the window is an utterance of its own, with an offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bestow_edge.core.utterances import Utterance

BORDER_S = 0.05  # an aligned word may begin this much earlier than it is heard
CUT_S = 0.1  # a word that ends later than this before the window's end may be cut off: it is left out
AT_WORDS = 0.6  # of the windows begin, and as many end, between two words; the others anywhere
BEFORE_S, BEHIND_S = (0.0, 0.15), (0.2, 0.5)  # silence or another word's end around the words of the former


def cut_window(item: Utterance, rng: np.random.Generator, limits_s: Sequence[float]) -> Utterance:
    """Return a random part of an utterance with the words that lie in it.

    An utterance without word times or transcript, one no longer than the longest window and one in whose window there
    is no whole word stay as they are.

    Args:
        item: the utterance.
        rng: decides length and place.
        limits_s: shortest and longest window, seconds.
    """
    said = (item.transcript or "").split()
    if not said or len(said) != len(item.word_times) or item.duration_s <= limits_s[1]:
        return item
    length_s = rng.uniform(limits_s[0], limits_s[1])
    start_s = rng.uniform(0, item.duration_s - length_s)
    if rng.random() < AT_WORDS:
        first = int(rng.integers(len(said)))
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
        texts={item.source_lang: " ".join(said[number] for number in inside)},
        word_times=tuple((begins, ends) for begins, ends in spans.tolist()),
    )
