"""Events and decisions of a session. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TextEvent:
    """Text that was added to the transcript; it never changes afterwards."""

    text: str
    """Text to append, in whole characters; the first text of a later segment begins with a space."""
    token_ids: tuple[int, ...]
    """Its tokens."""
    log_probs: tuple[float, ...]
    """Their log-probabilities (natural logarithm)."""
    start_s: float
    """Begin of its words in the stream, seconds, by the connector's attention."""
    end_s: float
    """End of its words."""
    heard_s: float
    """Seconds of the stream that were visible to its last token."""
    segment: int
    """Number of its segment, from 0; a long pause begins a new one."""
    prompt: int = 0
    """Number of the prompt it answers, in a session with several."""

    @property
    def log_prob(self) -> float:
        """Log-probability of all its tokens."""
        return sum(self.log_probs)

    def to_dict(self) -> dict[str, object]:
        """Return the event for JSON, without its tokens; the field `event` is `text`."""
        return {
            "event": "text",
            "text": self.text,
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "heard_s": round(self.heard_s, 3),
            "log_prob": round(self.log_prob, 4),
            "segment": self.segment,
            "prompt": self.prompt,
        }


@dataclass(frozen=True, slots=True)
class SegmentEvent:
    """A segment began with its first text, or ended at a long pause, at its limit or with the audio."""

    kind: Literal["start", "end"]
    """Begin or end."""
    segment: int
    """Number of the segment, from 0."""
    time_s: float
    """Begin of its first word or end of its last word in the stream, seconds."""
    text: Literal[""] = ""
    """Empty, so that a caller may print the text of every event."""

    def to_dict(self) -> dict[str, object]:
        """Return the event for JSON; the field `event` is `segment-start` or `segment-end`."""
        return {"event": f"segment-{self.kind}", "segment": self.segment, "time_s": round(self.time_s, 3)}


Verdict = Literal["write", "pause", "doubt", "refuse"]
"""Token written; no token to write yet; token taken for a sound without words; token refused by the policy."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one attempt at a token, for `Session.on_decision`. Most decisions add no text."""

    time_s: float
    """Seconds of the stream that the decoder had heard."""
    prompt: int
    """Number of the prompt."""
    segment: int
    """Number of the segment, from 0."""
    visible_steps: int
    """Encoder steps of the segment that were visible to the attempt."""
    token_id: int
    """The model's token."""
    log_prob: float
    """Its natural log-probability."""
    verdict: Verdict
    """The verdict."""


Event = TextEvent | SegmentEvent
