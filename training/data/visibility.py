"""Masks and targets of an answer, from the times of its words. numpy only.

It simulates the live loop with the true word ends: each token waits for the policy. If its word has not been heard by
then, the target is EOS, which pauses the model until more speech has been read. The mask comes from
`bestow_edge.core.policy.visible_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.core.policy import Policy, visible_steps

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Masks and targets of one utterance's answer positions, the end of the answer included."""

    visible: Ints
    """(prompt + answer,) speech steps each position sees."""
    paused: npt.NDArray[np.bool_]
    """(answer + 1,) positions shown before their word was heard, whose target is EOS."""


def heard_steps(end_s: npt.NDArray[np.float64], step_s: float, source_steps: int) -> Ints:
    """Return the number of encoder steps after which each token's word has been heard; 0 if its end is unknown (NaN).

    Step s (from 0) is centred on s * step_s, so a word that ends at t is heard with steps 0..ceil(t / step_s).
    """
    known = ~np.isnan(end_s)
    steps = np.minimum(np.ceil(np.where(known, end_s, 0.0) / step_s).astype(np.int64) + 1, source_steps)
    return np.where(known, steps, 0)


def make_schedule(
    policy: Policy,
    *,
    prompt_tokens: int,
    heard: Ints,
    source_steps: int,
    pauses: float,
    rng: np.random.Generator,
) -> Schedule:
    """Simulate the live loop over one utterance.

    Args:
        policy: the read/write policy.
        prompt_tokens: tokens of the prompt.
        heard: (answer,) steps after which each answer token's word has been heard; 0 = unknown.
        source_steps: encoder steps of the utterance.
        pauses: share of the waiting positions that are shown at a step before their word was heard.
        rng: draws these positions and steps.
    """
    num_answers = heard.size + 1  # the end token comes last; it is right at any step after the last word
    at_least = np.zeros(num_answers, dtype=np.int64)
    paused = np.zeros(num_answers, dtype=np.bool_)
    reached = 0
    for index, heard_by in enumerate([*heard.tolist(), 0]):
        first = min(max(policy.steps_needed(index), reached), source_steps)
        waits = max(0, -(-(heard_by - first) // policy.read_steps))
        reached = at_least[index] = min(first + waits * policy.read_steps, source_steps)
        if waits and rng.random() < pauses:
            at_least[index] = first + int(rng.integers(waits)) * policy.read_steps
            paused[index] = True
    if rng.random() < pauses:  # silence after the last word: EOS at any later step too
        at_least[-1] = rng.integers(at_least[-1], source_steps + 1)
    visible = visible_steps(
        policy,
        prompt_tokens=prompt_tokens,
        text_tokens=prompt_tokens + heard.size,
        source_steps=source_steps,
        at_least=at_least,
    )
    return Schedule(visible, paused)
