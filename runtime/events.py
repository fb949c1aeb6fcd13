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


Event = TextEvent | SegmentEvent
