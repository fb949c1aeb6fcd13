"""One answer about a segment: the tokens written so far, and the speech that the next one waits for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bestow_edge.core.policy import Offline, Policy, View, wanted_steps
from bestow_edge.core.prompts import AboutSpeech
from bestow_edge.runtime.decoders.base import Attempt

SPARE_TOKENS = 8  # tokens an answer may be ahead of one per encoder step; more is a loop
LOOP_TOKENS = 24  # as many tokens without moving on in the speech are a loop


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked about the speech, and when it may be answered."""

    asked: AboutSpeech
    """Languages of speech and text, or a question."""
    policy: Policy
    """Read/write policy."""


@dataclass(frozen=True, slots=True)
class Word:
    """A token that was written, with its place in the segment."""

    token_id: int
    log_prob: float
    first_step: int
    """Encoder step its attention begins at."""
    end_step: int
    """Step after the last one."""
    visible_steps: int
    """Steps it could see."""


@dataclass(slots=True)
class Answer:
    """State of one answer."""

    policy: Policy
    most_tokens: int
    """Tokens an answer may have."""
    question: bool = False
    """It answers a question: its words lie anywhere in the speech, in any number and order."""
    words: list[Word] = field(default_factory=list)
    """Tokens of the answer so far."""
    at_least: int = 0
    """Steps asked for by pauses and refusals."""
    refusals: int = 0
    """Times the next token was refused."""
    silent_since: int = 0
    """Visible steps when the last token was written."""
    silent_until: int = 0
    """Visible steps at which the model last had nothing to write."""
    done: bool = False
    """The answer has ended with the audio."""
    drafts: deque[tuple[int, ...]] = field(default_factory=deque)
    """Whole answers at the last reads, newest last."""
    drafted_at: int = -1
    """Visible steps of the newest draft."""
    has_text: bool = False
    """Some of its text is new: the segment before did not have it."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Answer so far."""
        return tuple(word.token_id for word in self.words)

    @property
    def held(self) -> bool:
        """Whether it answers a question, and only when everything has been heard."""
        return self.question and isinstance(self.policy, Offline)

    def most(self, visible: int) -> int:
        """Return how many tokens the answer to that many steps may have."""
        return self.most_tokens if self.question else min(visible + SPARE_TOKENS, self.most_tokens)

    def wants(self, available: int, *, ended: bool) -> int | None:
        """Return how many steps the next attempt sees, None if it has to wait."""
        wanted = wanted_steps(self.policy, len(self.words), self.at_least)
        too_long = len(self.words) >= self.most(available)
        if self.done or not available or too_long or (wanted > available and not ended):
            return None
        return min(wanted, available)

    def accepts(self, attempt: Attempt) -> bool:
        """Ask the policy."""
        view = View(
            index=len(self.words),
            token_id=attempt.token_id,
            log_prob=attempt.log_prob,
            visible_steps=attempt.visible_steps,
            refusals=self.refusals,
            attention=lambda layer: attempt.alignment[layer, :-1],
            drafts=tuple(self.drafts),
        )
        return self.policy.accepts(view)

    def pause(self, visible: int) -> None:
        """The model has nothing to write yet: read on."""
        self.silent_until = visible
        self._read(visible)

    def refuse(self, visible: int) -> None:
        """The policy wants more speech first."""
        self.refusals += 1
        self._read(visible)

    def write(self, attempt: Attempt) -> Word:
        """Note a token that was written."""
        visible = attempt.visible_steps
        first, end = attempt.span()
        word = Word(attempt.token_id, attempt.log_prob, first, end, visible)
        self.words.append(word)
        self.at_least = self.silent_since = self.silent_until = visible
        self.refusals = 0
        return word

    def loops(self) -> bool:
        """Say whether the last tokens repeat themselves without moving on in the speech."""
        last = self.words[-LOOP_TOKENS:]
        if len(last) < LOOP_TOKENS or last[-1].first_step > last[0].first_step + 1:
            return False
        ids = [word.token_id for word in last]
        return any(ids[period:] == ids[:-period] for period in range(1, LOOP_TOKENS // 3 + 1))

    def _read(self, visible: int) -> None:
        self.at_least = visible + max(1, self.policy.read_steps)
