"""One answer about a segment: its tokens so far, and the speech that the next token waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from bestow_edge.core.kinds import ConnectorKind
from bestow_edge.core.policy import Offline, Policy, View, wanted_steps
from bestow_edge.core.prompts import AboutSpeech, Question
from bestow_edge.runtime.decoders.base import Attempt

SPARE_TOKENS = 8  # an answer with more than a token for each encoder step and these is a loop
LOOP_TOKENS = 16  # so many tokens that repeat about the same place in the speech are a loop
MOST_WORDS = 8192  # of an answer that are kept: more than a segment of any other kind has
MOST_AT_END = 256  # tokens that a continuous answer may have behind the end of the audio
UNPLACED_COPIES = 4  # of a text whose place in the speech is not known: people say a sentence twice


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt about the speech and its policy."""

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
    """First encoder step of its attention."""
    end_step: int
    """Step after the last one of its attention."""
    visible_steps: int
    """Encoder steps that were visible to it."""


@dataclass(slots=True)
class Answer:
    """State of one answer."""

    policy: Policy
    most_tokens: int
    """Limit on the tokens of the answer."""
    aligned: bool = True
    """Whether attention shows where its words are spoken."""
    continuous: bool = False
    """Whether it has no other end than that of the audio."""
    question: bool = False
    """Whether it answers a question: its words attend anywhere in the speech, in any number and order."""
    words: list[Word] = field(default_factory=list)
    """Tokens of the answer so far; of a very long one the newest."""
    forgotten: int = 0
    """Tokens before them."""
    written: int = 0
    """Tokens written with as much speech visible as the last one."""
    at_least: int = 0
    """Steps that the last pause or refusal waits for."""
    refusals: int = 0
    """Times that the policy refused the next token."""
    silent_since: int = 0
    """Visible steps when the last token was written."""
    silent_until: int = 0
    """Visible steps at the last pause."""
    done: bool = False
    """Whether the answer has ended."""
    drafts: tuple[tuple[int, ...], ...] = ()
    """Whole answers at the last reads, newest last."""
    drafted_at: int = -1
    """Visible steps of the newest draft."""
    has_text: bool = False
    """Whether some of its text is new, not repeated from the segment before."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens of the answer so far."""
        return tuple(word.token_id for word in self.words)

    @property
    def count(self) -> int:
        """Tokens written."""
        return self.forgotten + len(self.words)

    @property
    def held(self) -> bool:
        """Whether it answers a question at the end of the audio."""
        return self.question and isinstance(self.policy, Offline)

    def most(self, visible: int) -> int:
        """Return the limit on the tokens of the answer to that many steps."""
        return self.most_tokens if self.question or self.continuous else min(visible + SPARE_TOKENS, self.most_tokens)

    def room(self, visible: int) -> int:
        """Return how many more tokens may follow if that is all the speech."""
        left = self.most(visible) - self.count
        return min(left, MOST_AT_END) if self.continuous else left

    def wants(self, available: int, *, ended: bool) -> int | None:
        """Return the visible steps of the next attempt, None if it has to wait."""
        wanted = wanted_steps(self.policy, self.count, self.at_least)
        at_once = self.written if self.continuous and self.silent_since == available else 0
        too_long = self.count >= self.most(available) or at_once >= MOST_AT_END
        if self.done or not available or too_long or (wanted > available and not ended):
            return None
        return min(wanted, available)

    def accepts(self, attempt: Attempt) -> bool:
        """Return whether the policy accepts the token of an attempt."""
        view = View(
            index=self.count,
            token_id=attempt.token_id,
            log_prob=attempt.log_prob,
            visible_steps=attempt.visible_steps,
            refusals=self.refusals,
            attention=lambda layer: attempt.alignment[layer, :-1],
            drafts=self.drafts,
        )
        return self.policy.accepts(view)

    def pause(self, visible: int) -> None:
        """Wait for more speech, because the model has no token to write."""
        self.silent_until = visible
        self.wait(visible)

    def refuse(self, visible: int) -> None:
        """Wait for more speech, because the policy refused the token."""
        self.refusals += 1
        self.wait(visible)

    def write(self, attempt: Attempt) -> Word:
        """Append the token of an attempt."""
        visible = attempt.visible_steps
        first, end = attempt.span()
        word = Word(attempt.token_id, attempt.log_prob, first, end, visible)
        self.words.append(word)
        if len(self.words) > MOST_WORDS:
            self.forgotten += len(self.words) - MOST_WORDS // 2
            del self.words[: -MOST_WORDS // 2]
        self.written = self.written + 1 if visible == self.silent_since else 1
        self.at_least = self.silent_since = self.silent_until = visible
        if self.written >= self.policy.most_at_once:
            self.at_least += self.policy.read_steps
        self.refusals = 0
        return word

    def loops(self) -> bool:
        """Return whether the last tokens repeat, and their attention moves less than speech that is repeated would.

        At least two copies are compared, of 16 tokens together; speech has half a step or more for each token. Without
        an alignment at least four copies are, because the attention cannot tell a loop from speech that repeats.
        """
        periods = range(1, len(self.words) // 2 + 1)
        newest = self.words[-1].token_id
        return any(self.words[-1 - period].token_id == newest and self._repeats(period) for period in periods)

    def _repeats(self, period: int) -> bool:
        least = max(LOOP_TOKENS, (2 if self.aligned else UNPLACED_COPIES) * period)
        last = self.words[-least:]
        copies = list(zip(last[:-period], last[period:], strict=True))
        if len(last) < least or any(old.token_id != new.token_id for old, new in copies):
            return False
        return median(new.first_step - old.first_step for old, new in copies) < period / 2

    def wait(self, visible: int) -> None:
        """Wait for more speech."""
        self.at_least = visible + max(1, self.policy.read_steps)


def open_answer(prompt: Prompt, most_tokens: int, kind: ConnectorKind) -> Answer:
    """Return an answer to a prompt without tokens; `most_tokens` is their limit."""
    return Answer(
        prompt.policy,
        most_tokens,
        aligned=kind.aligned,
        continuous=kind.continuous,
        question=isinstance(prompt.asked, Question),
    )
