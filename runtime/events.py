"""What a session tells its caller. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextEvent:
    """Text that was added to the transcript; it never changes afterwards."""

    text: str
    """What to append, in whole characters; a later segment's first text begins with a space."""
    token_ids: tuple[int, ...]
    """Tokens it was made of."""
    log_prob: float
    """Sum of their log-probabilities (natural logarithm)."""
    heard_s: float
    """Seconds of the stream the last of them could attend to."""
    segment: int
    """Number of its segment, from 0; a long pause begins a new one."""
