"""The decode loop of sessions, export and training: the verdict on each attempt at a token."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from bestow_edge.core.policy import Policy
from bestow_edge.runtime.decoders.base import Attempt, Decoder
from bestow_edge.runtime.stream.answer import Answer
from bestow_edge.runtime.stream.events import Verdict


def decide(
    answer: Answer,
    attempt: Attempt,
    *,
    last: bool,
    end_ids: Collection[int],
    doubted: bool = False,
    early: bool = False,
) -> Verdict:
    """Return the verdict on an attempt, and let the answer wait or end if its token is not written.

    Args:
        answer: the answer so far.
        attempt: the model's proposal for its next token.
        last: whether the speech has ended and all of it was visible to the attempt.
        end_ids: tokens that end an answer or, before the end of the speech, pause it.
        doubted: whether the token is taken for a sound without words.
        early: whether the language of the speech is still to be detected.

    Returns:
        `write` if the caller has to commit the token and call `Answer.write`.
    """
    if doubted or attempt.token_id in end_ids:
        answer.pause(attempt.visible_steps)
        answer.done = last
        return "doubt" if doubted else "pause"
    if early and not last:
        answer.wait(attempt.visible_steps)
        return "refuse"
    if not last and not answer.accepts(attempt):
        answer.refuse(attempt.visible_steps)
        return "refuse"
    return "write"


def chosen(attempt: Attempt, policy: Policy, end_ids: Collection[int], *, last: bool) -> Attempt:
    """Return an attempt with the token that its policy prefers, see `Policy.end_bias`."""
    if last or not policy.end_bias:
        return attempt
    log_probs = attempt.log_probs
    biased = log_probs.copy()
    biased[list(end_ids)] += policy.end_bias
    token_id = int(biased.argmax())
    return replace(attempt, token_id=token_id, log_prob=float(log_probs[token_id]))


def decode(decoder: Decoder, answer: Answer, end_ids: Collection[int]) -> Iterator[Attempt]:
    """Write the answer to the whole speech in row 0, and yield every attempt at a token."""
    while (visible := answer.wants(decoder.heard, ended=True)) is not None:
        (attempt,) = decoder.attempt([visible])
        last = visible == decoder.heard
        attempt = chosen(attempt, answer.policy, end_ids, last=last)
        if decide(answer, attempt, last=last, end_ids=end_ids) == "write":
            decoder.commit(0, attempt.token_id)
            answer.write(attempt)
        yield attempt
