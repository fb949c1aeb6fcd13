"""What a session tells its caller. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TextEvent:
    """Text that was added to the transcript; it never changes afterwards."""

    text: str
    """What to append, in whole characters; a later segment's first text begins with a space."""
    token_ids: tuple[int, ...]
    """Tokens it was made of."""
    log_probs: tuple[float, ...]
    """Their log-probabilities (natural logarithm)."""
    start_s: float
    """Where in the stream its words begin, seconds, by the adapter's attention."""
    end_s: float
    """Where they end."""
    heard_s: float
    """Seconds of the stream the last of its tokens could attend to."""
    segment: int
    """Number of its segment, from 0; a long pause begins a new one."""
    prompt: int = 0
    """Number of the prompt it answers, in a session with several."""

    @property
    def log_prob(self) -> float:
        """Log-probability of all its tokens."""
        return sum(self.log_probs)


@dataclass(frozen=True, slots=True)
class SegmentEvent:
    """A segment began with its first text, or ended at a long pause, at its limit or with the audio."""

    kind: Literal["start", "end"]
    """What happened."""
    segment: int
    """Number of the segment, from 0."""
    time_s: float
    """Where in the stream its first word begins or its last word ends, seconds."""
    text: Literal[""] = ""
    """Nothing to append: whoever prints the text of every event need not tell them apart."""


Verdict = Literal["write", "pause", "doubt", "refuse"]
"""Written; the model had nothing to write yet; what it would write was taken for no speech; the policy wanted more."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one attempt at a token. For `Session.on_decision`; no event, most of them add no text."""

    time_s: float
    """Seconds of the stream that had reached the text side."""
    prompt: int
    """Number of the prompt."""
    segment: int
    """Number of the segment, from 0."""
    visible_steps: int
    """Encoder steps of the segment the attempt saw."""
    token_id: int
    """What the model proposed."""
    log_prob: float
    """Its natural log-probability."""
    verdict: Verdict
    """What was decided."""


Event = TextEvent | SegmentEvent
