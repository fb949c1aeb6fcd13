"""Read/write policy: which speech steps each text position may see. numpy only.

The one definition of wait-k (paper, section 3.2). The training mask, the exporter's parity inputs and the live loop all
call `visible_steps`, so a model is run exactly as it was trained. It knows nothing of chunks, audio or graphs: only
encoder steps (80 ms) and text positions count, which makes the text independent of how the audio arrived.

Positions: a sequence is `prompt_tokens` prompt tokens and then the answer. The last prompt token is the first query; it
predicts answer token 0. Prompt tokens before it see no speech, only the null frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

ALL_STEPS = 2**31 - 1  # "as many as there will ever be": larger than any stream, fits the graphs' int64 and int32


class Policy(Protocol):
    """What a policy must say; a user may write one."""

    @property
    def read_steps(self) -> int:
        """Encoder steps to read before the same token is tried again (the model paused)."""

    def steps_needed(self, index: int) -> int:
        """Return the encoder steps that must be heard before answer token `index` (from 0) may be written."""


@dataclass(frozen=True, slots=True)
class WaitK:
    """Wait for `k` blocks of `l` encoder steps, then write one token per block. Source: paper, section 3.2."""

    k: int
    l: int  # noqa: E741 - the paper's letter

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k < 1 or self.l < 1:
            raise ValueError(f"wait-k needs k >= 1 and l >= 1, got k={self.k}, l={self.l}")

    @property
    def read_steps(self) -> int:
        """One block."""
        return self.l

    def steps_needed(self, index: int) -> int:
        """Return (k + index) * l."""
        return (self.k + index) * self.l


@dataclass(frozen=True, slots=True)
class Offline:
    """Hear everything before the first token: wait-k with k * l = infinity."""

    @property
    def read_steps(self) -> int:
        """Never used: there is nothing left to read."""
        return ALL_STEPS

    def steps_needed(self, index: int) -> int:  # noqa: ARG002 - the protocol's signature
        """Return more steps than any stream has."""
        return ALL_STEPS


def visible_steps(
    policy: Policy,
    *,
    prompt_tokens: int,
    text_tokens: int,
    source_steps: int,
    at_least: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return how many speech steps each text position sees, counted from the first step.

    Args:
        policy: the read/write policy.
        prompt_tokens: tokens of the prompt, at least 1.
        text_tokens: tokens of the whole sequence, prompt included.
        source_steps: encoder steps there are (all of them when the audio has ended).
        at_least: (answer positions,) steps already read when the token was tried, after pauses; it raises what the
            policy allows. None means no pauses.

    Returns:
        (text_tokens,) int64; 0 = the null frame alone.
    """
    if prompt_tokens < 1 or text_tokens < prompt_tokens:
        raise ValueError(f"need 1 <= prompt_tokens <= text_tokens, got {prompt_tokens} and {text_tokens}")
    num_answers = text_tokens - prompt_tokens + 1
    floors = [0] * num_answers if at_least is None else at_least.tolist()
    if len(floors) != num_answers:
        raise ValueError(f"at_least has {len(floors)} entries, expected {num_answers}: one for each answer position")
    answers = [min(wanted_steps(policy, index, floor), source_steps) for index, floor in enumerate(floors)]
    return np.array([0] * (prompt_tokens - 1) + answers, dtype=np.int64)


def wanted_steps(policy: Policy, index: int, at_least: int = 0) -> int:
    """Return the speech steps that answer token `index` sees, if there are so many; until then it has to READ.

    Args:
        policy: the read/write policy.
        index: answer token, from 0.
        at_least: steps already asked for because the model paused at this token or an earlier one.
    """
    return max(policy.steps_needed(index), at_least)
