"""Beam search for the answer to the whole speech.

All hypotheses are rows of one batch; a step keeps the best rows and reorders the caches in place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from bestow_edge.runtime.decoders.base import Attempt, Decoder


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An answer, finished or not."""

    attempts: tuple[Attempt, ...] = ()
    log_prob: float = 0.0
    """Of all its tokens, including the end token of a finished answer."""

    def score(self) -> float:
        """Return the log-probability for each token, the end counted as one."""
        return self.log_prob / (len(self.attempts) + 1)


def beam_search(
    decoder: Decoder, visible_steps: int, end_ids: Collection[int], most_tokens: int
) -> tuple[Attempt, ...]:
    """Return the tokens of the best answer from a fresh decoder with the same prompt in each row.

    A step keeps the best `rows` continuations of all hypotheses; finished ones leave the beam. It stops when `rows`
    have finished and no other one is better.

    Source: the paper's offline decoding, beam 5 (section 4.1).
    """
    size = decoder.rows
    alive: list[Hypothesis] = [Hypothesis()]
    ended: list[Hypothesis] = []
    while alive and len(alive[0].attempts) < most_tokens and not _decided(alive, ended, size):
        attempts = decoder.attempt([visible_steps] * size)
        kept: list[tuple[int, Hypothesis]] = []
        for rank, (row, token_id, log_prob) in enumerate(_best(alive, attempts, 2 * size)):
            attempt = attempts[row]
            if token_id in end_ids and rank < size:
                ended.append(Hypothesis(alive[row].attempts, log_prob))
            elif token_id not in end_ids and len(kept) < size:
                chosen = replace(attempt, token_id=token_id, log_prob=float(attempt.log_probs[token_id]))
                kept.append((row, Hypothesis((*alive[row].attempts, chosen), log_prob)))
        alive = _continue(decoder, kept)
    return max(ended or alive, key=Hypothesis.score, default=Hypothesis()).attempts


def _decided(alive: list[Hypothesis], ended: list[Hypothesis], size: int) -> bool:
    return len(ended) >= size and max(map(Hypothesis.score, ended)) >= max(map(Hypothesis.score, alive))


def _best(alive: list[Hypothesis], attempts: list[Attempt], count: int) -> list[tuple[int, int, float]]:
    """Return the best continuations as (row, token, log-probability), best first."""
    scores = np.stack([item.log_prob + attempts[row].log_probs for row, item in enumerate(alive)])  # (alive, vocab)
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, tokens = np.unravel_index(order, scores.shape)
    return [(int(row), int(token), float(scores[row, token])) for row, token in zip(rows, tokens, strict=True)]


def _continue(decoder: Decoder, kept: list[tuple[int, Hypothesis]]) -> list[Hypothesis]:
    """Copy the rows of the kept hypotheses into the decoder's rows and commit their tokens."""
    if not kept:
        return []
    filled = kept + [kept[-1]] * (decoder.rows - len(kept))
    decoder.take_rows([row for row, _ in filled])
    for row, (_, item) in enumerate(filled):
        decoder.commit(row, item.attempts[-1].token_id)
    return [item for _, item in kept]
