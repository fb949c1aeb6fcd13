"""Beam search for the answer to the whole speech.

All hypotheses are rows of one batch; a step keeps the best rows and reorders the caches in place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from bestow_edge.runtime.decoders.base import Attempt, Decoder
from bestow_edge.runtime.stream.hotwords import START, HotwordTrie, Path


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An answer, finished or not."""

    attempts: tuple[Attempt, ...] = ()
    log_prob: float = 0.0
    """Of all its tokens, including the end token of a finished answer, and the bonus of hotwords."""
    path: Path = (START,)
    """Begin of a hotword that it ends with."""

    def score(self) -> float:
        """Return the log-probability for each token, the end counted as one."""
        return self.log_prob / (len(self.attempts) + 1)


def beam_search(
    decoder: Decoder,
    visible_steps: int,
    end_ids: Collection[int],
    most_tokens: int,
    trie: HotwordTrie | None = None,
) -> tuple[Attempt, ...]:
    """Return the tokens of the best answer from a fresh decoder with the same prompt in each row.

    A step keeps the best `rows` continuations of all hypotheses; finished ones leave the beam. It stops when `rows`
    have finished and no other one is better. `trie` holds the hotwords.

    Source: the paper's offline decoding, beam 5 (section 4.1).
    """
    size = decoder.rows
    alive: list[Hypothesis] = [Hypothesis()]
    ended: list[Hypothesis] = []
    while alive and len(alive[0].attempts) < most_tokens and not _decided(alive, ended, size):
        attempts = decoder.attempt([visible_steps] * size)
        kept: list[tuple[int, Hypothesis]] = []
        for rank, (row, token_id, log_prob) in enumerate(_best(alive, attempts, 2 * size, trie)):
            attempt = attempts[row]
            if token_id in end_ids and rank < size:
                ended.append(Hypothesis(alive[row].attempts, log_prob))
            elif token_id not in end_ids and len(kept) < size:
                chosen = replace(attempt, token_id=token_id, log_prob=float(attempt.log_probs[token_id]))
                path = alive[row].path if trie is None else trie.follow(alive[row].path, token_id)
                kept.append((row, Hypothesis((*alive[row].attempts, chosen), log_prob, path)))
        alive = _continue(decoder, kept)
    return max(ended or alive, key=Hypothesis.score, default=Hypothesis()).attempts


def _decided(alive: list[Hypothesis], ended: list[Hypothesis], size: int) -> bool:
    return len(ended) >= size and max(map(Hypothesis.score, ended)) >= max(map(Hypothesis.score, alive))


def _best(
    alive: list[Hypothesis], attempts: list[Attempt], count: int, trie: HotwordTrie | None
) -> list[tuple[int, int, float]]:
    """Return the best continuations as (row, token, log-probability with bonus), best first."""
    log_probs = [attempt.log_probs for attempt in attempts[: len(alive)]]
    if trie is not None:
        log_probs = [trie.scores(item.path, row) for item, row in zip(alive, log_probs, strict=True)]
    scores = np.stack([item.log_prob + row for item, row in zip(alive, log_probs, strict=True)])  # (alive, vocab)
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
