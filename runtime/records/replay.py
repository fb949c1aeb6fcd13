"""Runs a recorded stream again, and finds the first difference between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from bestow_edge.core.errors import TraceError
from bestow_edge.core.policy import Offline, Policy
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.records.trace import Trace
from bestow_edge.runtime.stream.events import Event, TextEvent


def replay(
    trace: Trace,
    model: Model,
    *,
    policies: Sequence[Policy] | None = None,
    lookahead: int | None = None,
    any_bundle: bool = False,
) -> list[Event]:
    """Run a session again on the recorded blocks.

    Args:
        trace: the recorded stream.
        model: the bundle it was recorded with.
        policies: one for each prompt; None = the recorded ones.
        lookahead: right context of the encoder, steps; None = the recorded one.
        any_bundle: accept another bundle.

    Returns:
        The events. They equal `trace.events` if the settings are the recorded ones and the processor rounds alike.

    Raises:
        TraceError: if the bundle is another one, takes audio of another rate, or a recorded policy is unknown.
        ConfigError, PromptError: if the bundle does not have the look-ahead or the languages.
    """
    header = trace.header
    if not any_bundle:
        trace.check_bundle(model)
    if header.sample_rate_hz != model.sample_rate_hz:
        rates = f"recorded at {header.sample_rate_hz} Hz, the bundle hears {model.sample_rate_hz} Hz"
        raise TraceError(f"{trace.path}: {rates}; choose another bundle")
    used = trace.policies if policies is None else policies
    session = model.multi_session(
        [(prompt.asked, policy) for prompt, policy in zip(header.prompts, used, strict=True)],
        lookahead=header.lookahead if lookahead is None else lookahead,
        segments=header.segments,
        beam_size=header.beam_size if all(isinstance(policy, Offline) for policy in used) else 1,
        hotwords=header.hotwords,
    )
    with session:
        events = [event for block in trace.blocks() for event in session.feed(block)]
        return events + (session.finish() if header.finished else [])


def first_difference(recorded: Sequence[Event], replayed: Sequence[Event]) -> str | None:
    """Describe the first event that differs in its text or its time between two lists; None if no event does.

    Log-probabilities and places in the audio are not compared: another processor may round them differently.
    """
    for index, (old, new) in enumerate(zip_longest(recorded, replayed)):
        if _written(old) != _written(new):
            return f"event {index}: recorded {_shown(old)}, replayed {_shown(new)}"
    return None


def _written(event: Event | None) -> tuple[object, ...]:
    if isinstance(event, TextEvent):
        return event.prompt, event.segment, event.text, event.token_ids, event.heard_s
    return () if event is None else (event.kind, event.segment)


def _shown(event: Event | None) -> str:
    if isinstance(event, TextEvent):
        return f"{event.text!r} (heard {event.heard_s:.2f} s)"
    return "nothing" if event is None else f"{event.kind} of segment {event.segment}"
