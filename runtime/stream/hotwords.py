"""Hotwords: names and terms that are written in place of words that are a little more probable.

Text that is written stays. So a hotword is begun against the model's own choice only if it is better as a whole: its
tokens to its end, each with its bonus, are more probable together than as many tokens that the model would write
instead. A hotword that was begun so is finished. A beam pays the bonus of each token and takes all of it back where a
hypothesis leaves a hotword before its end.

Source: the context graph of icefall and sherpa-onnx, which a beam follows here; for the greedy search the whole word is
compared, because a prefix of a hotword is often another word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.core.errors import PromptError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.runtime.decoders.base import Attempt, Decoder, Floats
from bestow_edge.runtime.encoders.base import SpeechSteps

START = -1  # in a path: the begin of a word without a space before it
MOST_RIVALS = 2  # hotwords that are compared with the model's own words at a token
Path = tuple[int, ...]


class HotwordTrie:
    """Token paths of hotwords. A path is the begin of a hotword that a text ends with; () is none."""

    def __init__(self, tokenizer: Tokenizer, hotwords: Sequence[Hotword]) -> None:
        """Take the hotwords, with and without a space before them.

        Raises:
            PromptError: if the tokenizer cannot write a hotword.
        """
        self._tokenizer = tokenizer
        self._bonus: dict[Path, float] = {(): 0.0, (START,): 0.0}  # of all tokens of a path
        self._complete: set[Path] = set()
        self._next: dict[Path, set[int]] = {}
        self._choices: dict[tuple[Path, bool], tuple[npt.NDArray[np.int64], Floats]] = {}
        for word in hotwords:
            for path in hotword_paths(tokenizer, word.text):
                self._add(path, word.weight)

    def _add(self, path: Path, weight: float) -> None:
        first = int(path[0] == START)
        for end in range(first + 1, len(path) + 1):
            part = path[:end]
            self._bonus[part] = max(self._bonus.get(part, 0.0), weight * (end - first))
            self._next.setdefault(part[:-1], set()).add(part[-1])
        self._complete.add(path)

    def follow(self, path: Path, token_id: int) -> Path:
        """Return the longest path that a text ends with after another token."""
        whole = (*path, token_id)
        found = next(whole[first:] for first in range(len(whole) + 1) if whole[first:] in self._bonus)
        return found if found or self._in_word(token_id) else (START,)

    def is_complete(self, path: Path) -> bool:
        """Return whether a path is a whole hotword."""
        return path in self._complete

    def choices(self, path: Path, *, begins: bool = True) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the tokens that go on with a path's hotwords, (n,) int64, and the bonus of each, (n,) nats.

        With `begins` also those that begin another hotword.
        """
        if (path, begins) not in self._choices:
            suffixes = [path[first:] for first in range(len(path) + 1 if begins else 1)]
            tokens = sorted({token for suffix in suffixes for token in self._next.get(suffix, ())})
            ends = [self.follow(path, token) for token in tokens]
            bonus = [self._bonus[end] - self._bonus[end[:-1]] for end in ends]
            self._choices[path, begins] = np.array(tokens, dtype=np.int64), np.array(bonus, dtype=np.float32)
        return self._choices[path, begins]

    def scores(self, path: Path, log_probs: Floats) -> Floats:
        """Return log-probabilities, (vocab,), with what each token gains, and loses if it leaves a begun hotword."""
        tokens, _ = self.choices(path)
        ends = [self.follow(path, int(token)) for token in tokens]
        scores: Floats = log_probs - np.float32(self._bonus[path] - self._kept(path))
        scores[tokens] += np.array([self._bonus[end] - self._kept(end[:-1]) for end in ends], dtype=np.float32)
        return scores

    def _kept(self, path: Path) -> float:
        """Return the bonus of the longest whole hotword at the begin of a path."""
        return next((self._bonus[path[:end]] for end in range(len(path), 0, -1) if self.is_complete(path[:end])), 0.0)

    def _in_word(self, token_id: int) -> bool:
        """Return whether a token ends with a letter or a digit, or in the middle of a character."""
        text: str = self._tokenizer.decode([token_id])
        return text[-1:].isalnum() or text.endswith("\ufffd")


def hotword_paths(tokenizer: Tokenizer, text: str) -> set[Path]:
    """Return the paths of a hotword: behind a space, and at the begin of a word without one.

    Raises:
        PromptError: if the tokenizer cannot write it.
    """
    before, behind = (tokenizer.encode(words, add_special_tokens=False).ids for words in ("a", f"a {text}"))
    bare = tokenizer.encode(text, add_special_tokens=False).ids
    written: str = tokenizer.decode(bare).strip()
    if written != text:
        raise PromptError(f"hotword {text!r:.60}: the tokenizer writes {written!r:.60}; change it or leave it out")
    spaceless = text[0].isalpha() and text[0].lower() == text[0].upper()  # a script such as Chinese marks no words
    paths = {tuple(bare) if spaceless else (START, *bare)}
    if behind[: len(before)] == before:
        paths.add(tuple(behind[len(before) :]))
    return paths


class HotwordDecoder:
    """A decoder for a greedy search that prefers hotwords to other words, but never to the end of an answer."""

    def __init__(self, decoder: Decoder, trie: HotwordTrie, end_ids: Collection[int]) -> None:
        """Take a decoder whose answers are at their begin."""
        self._decoder, self._trie, self._end_ids = decoder, trie, end_ids
        self._paths: list[Path] = [(START,)] * decoder.rows
        self._begun: list[Path] = [()] * decoder.rows
        """Tokens to the end of the hotword that each row has begun."""
        self._plans = self._begun.copy()
        """Next tokens of each row at its last attempt, if a hotword is preferred."""

    @property
    def rows(self) -> int:
        """See `Decoder`."""
        return self._decoder.rows

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """See `Decoder`."""
        return self._decoder.num_tokens

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self._decoder.heard

    def hear(self, speech: SpeechSteps) -> None:
        """See `Decoder`."""
        self._decoder.hear(speech)

    def end(self) -> None:
        """See `Decoder`."""
        self._decoder.end()

    def supposing(self, speech: Sequence[SpeechSteps]) -> AbstractContextManager[None]:
        """See `Decoder`."""
        return self._decoder.supposing(speech)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`."""
        attempts = self._decoder.attempt(visible_steps)
        rivals = [self._rivals(row, attempts[row]) if visible else [] for row, visible in enumerate(visible_steps)]
        self._plans = [
            self._begun[row] or self._better(row, tokens, visible_steps[row]) for row, tokens in enumerate(rivals)
        ]
        if any(rivals):
            attempts = self._decoder.attempt(visible_steps)  # once more, behind rehearsals
        return [self._preferred(attempt, plan) for attempt, plan in zip(attempts, self._plans, strict=True)]

    def commit(self, row: int, token_id: int) -> None:
        """See `Decoder`."""
        self._decoder.commit(row, token_id)
        self._paths[row] = self._trie.follow(self._paths[row], token_id)
        plan = self._plans[row]
        self._begun[row] = plan[1:] if plan[:1] == (token_id,) else ()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        kept = self._paths.copy(), self._begun.copy()
        with self._decoder.rehearsal():
            try:
                yield
            finally:
                self._paths, self._begun = kept

    def take_rows(self, rows: Sequence[int]) -> None:
        """See `Decoder`."""
        self._decoder.take_rows(rows)
        self._paths, self._begun = [self._paths[row] for row in rows], [self._begun[row] for row in rows]

    def branch(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Return a decoder of fresh rows about the same speech, without hotwords."""
        return self._decoder.branch(prompts)

    def _rivals(self, row: int, attempt: Attempt) -> list[int]:
        """Return the tokens of hotwords that are better than an attempt's with their bonus, the best one first."""
        tokens, bonus = self._trie.choices(self._paths[row])
        if self._begun[row] or attempt.token_id in self._end_ids or not tokens.size:
            return []
        scores = attempt.log_probs[tokens] + bonus
        best = np.argsort(-scores, kind="stable")[:MOST_RIVALS]
        return [int(tokens[one]) for one in best if scores[one] > attempt.log_prob and tokens[one] != attempt.token_id]

    def _better(self, row: int, rivals: Sequence[int], visible: int) -> Path:
        """Return the tokens of the first rival's hotword that is better than as many tokens of the model's own.

        None is taken right behind itself: that would be a loop.
        """
        for first in rivals:
            tokens, score = self._hotword(row, first, visible)
            if tokens != self._paths[row][-len(tokens) :] and score > self._own_score(row, len(tokens), visible):
                return tokens
        return ()

    def _hotword(self, row: int, first: int, visible: int) -> tuple[Path, float]:
        """Return the most probable hotword that begins with a token, to its end, and its score with its bonus."""
        path, score = self._paths[row], 0.0
        tokens: Path = ()
        with self._decoder.rehearsal():
            while True:
                log_probs = self._decoder.attempt([visible] * self.rows)[row].log_probs
                choices, bonus = self._trie.choices(path, begins=not tokens)
                scores = log_probs[choices] + bonus
                best = int(scores.argmax()) if tokens else int(np.flatnonzero(choices == first)[0])
                token = int(choices[best])
                tokens, score, path = (*tokens, token), score + float(scores[best]), self._trie.follow(path, token)
                if self._trie.is_complete(path):
                    return tokens, score
                self._decoder.commit(row, token)

    def _own_score(self, row: int, count: int, visible: int) -> float:
        """Return the log-probability of the next tokens that the model would write by itself."""
        score = 0.0
        with self._decoder.rehearsal():
            for _ in range(count):
                attempt = self._decoder.attempt([visible] * self.rows)[row]
                score += attempt.log_prob
                if attempt.token_id in self._end_ids:
                    break
                self._decoder.commit(row, attempt.token_id)
        return score

    def _preferred(self, attempt: Attempt, plan: Path) -> Attempt:
        if not plan or attempt.token_id in {*self._end_ids, plan[0]}:
            return attempt
        return replace(attempt, token_id=plan[0], log_prob=float(attempt.log_probs[plan[0]]))


def with_hotwords(decoder: Decoder, trie: HotwordTrie | None, end_ids: Collection[int]) -> Decoder:
    """Return a decoder that prefers hotwords if there are any, and the same decoder otherwise."""
    return decoder if trie is None else HotwordDecoder(decoder, trie, end_ids)
