"""Sequences of speech and text, in turns or added, from the times of words, for connector `interleave`. numpy only.

A sequence is exactly the one of a session in which the LLM writes each token at the first turn that ends at least the
delay after its word: the same positions, the same turns and the same mark behind the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.core.specs.interleave import SPEECH

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """The sequence of one utterance."""

    token_ids: Ints
    """(positions,) tokens, and `SPEECH` where a step of speech stands alone"""
    visible: Ints
    """(positions,) steps up to each position; the mark counts as one"""
    targets: Ints
    """(positions,) next token or BLANK behind a turn and behind each token of the text; elsewhere `ignored`"""


def due_steps(heard: Ints, delay: int, source_steps: int) -> Ints:
    """Return the steps after which each token may be written, in order.

    Args:
        heard: (answer,) steps after which each token's word has been heard; 0 = unknown.
        delay: steps from there on.
        source_steps: steps of the utterance.

    Returns:
        (answer,); `source_steps + 1`, the mark, for an answer without times.
    """
    known = heard > 0
    if not known.any():
        return np.full(heard.size, source_steps + 1, dtype=np.int64)
    due = np.where(known, heard + delay, 0)
    due[: known.argmax()] = due[known.argmax()]
    return np.maximum.accumulate(due)


def make_turns(
    prompt: Sequence[int],
    answer: Sequence[int],
    due: Ints,
    *,
    turn_steps: int,
    source_steps: int,
    end_id: int,
    ignored: int,
) -> Turns:
    """Line up speech and text.

    Args:
        prompt: token ids of the prompt, that of the delay last.
        answer: token ids of the answer, without the end token.
        due: (answer,) steps after which each may be written, from `due_steps`.
        turn_steps: steps of a turn; the last turn may have fewer.
        source_steps: steps of the utterance.
        end_id: the end token: the mark, and BLANK.
        ignored: target of positions without loss.
    """
    ids, visible, targets = list(prompt), [0] * len(prompt), [ignored] * len(prompt)
    last, written = source_steps + 1, 0  # the mark is the last step
    for begin in range(0, last, turn_steps):
        end = min(begin + turn_steps, last)
        for step in range(begin + 1, end + 1):
            ids.append(SPEECH if step < last else end_id)
            visible.append(step)
            targets.append(ignored)
        while written < len(answer) and (end == last or due[written] <= end):
            targets[-1] = answer[written]
            ids.append(answer[written])
            visible.append(end)
            targets.append(ignored)
            written += 1
        targets[-1] = end_id
    return Turns(*(np.array(values, dtype=np.int64) for values in (ids, visible, targets)))


def make_stream(
    prompt: Sequence[int], answer: Sequence[int], due: Ints, *, source_steps: int, end_id: int, ignored: int
) -> Turns:
    """Line up speech and text for the additive form: a position for each step, one for the mark, and the rest.

    The token of a position is the target of the one before; at the first step it is BLANK. Arguments as `make_turns`.
    """
    ids, visible, targets = list(prompt), [0] * len(prompt), [ignored] * len(prompt)
    newest, written = end_id, 0
    for step in range(1, source_steps + 1):
        ids.append(newest)
        visible.append(step)
        ready = written < len(answer) and due[written] <= step
        newest = answer[written] if ready else end_id
        written += ready
        targets.append(newest)
    rest = [newest, *answer[written:]]
    ids += rest
    visible += [source_steps + 1] * len(rest)
    targets += [*rest[1:], end_id]
    return Turns(*(np.array(values, dtype=np.int64) for values in (ids, visible, targets)))
