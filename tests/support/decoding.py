"""Sessions and decoders driven by tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bestow_edge.core.policy import Offline, Policy
from bestow_edge.runtime.decoders.base import Decoder
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import Decision, Event
from bestow_edge.runtime.stream.listener import Listener
from bestow_edge.runtime.stream.session import Session


def tokens(session: Session, waveform: np.ndarray, block: int) -> list[list[int]]:
    """Return the tokens that a session writes for each prompt."""
    written: list[list[int]] = [[] for _ in session.prompts]
    session.on_decision = lambda one: written[one.prompt].append(one.token_id) if one.verdict == "write" else None
    for start in range(0, len(waveform), block):
        session.feed(waveform[start : start + block])
    session.finish()
    return written


def decisions(session: Session, waveform: np.ndarray, block: int, *, finish: bool = True) -> list[Decision]:
    """Return all decisions of a session."""
    found: list[Decision] = []
    session.on_decision = found.append
    for start in range(0, len(waveform), block):
        session.feed(waveform[start : start + block])
    if finish:
        session.finish()
    return found


def listen(
    model: Model,
    prompts: Sequence[tuple[str, Policy]],
    waveform: np.ndarray,
    block: int,
    lookahead: int | None = None,
    *,
    drafts: bool = False,
) -> tuple[list[Event], list[Decision], list[str]]:
    """Return the events and decisions of a session and, if they are wanted, its draft behind each block."""
    events: list[Event] = []
    found: list[Decision] = []
    texts: list[str] = []
    with model.multi_session(list(prompts), lookahead=lookahead) as session:
        session.on_decision = found.append
        for start in range(0, len(waveform), block):
            events += session.feed(waveform[start : start + block])
            texts += [session.draft()] if drafts else []
        return events + session.finish(), found, texts


def heard(model: Model, waveform: np.ndarray, prompts: list[list[int]], *, drafts: bool = False) -> Any:
    """Return a decoder that has heard all."""
    encoder = model.open_encoder(model.graphs, [Offline()], model.config.encoder.default_right_context)
    listener, decoder = Listener(encoder, None), model.open_decoder(model.graphs, prompts, drafts=drafts)
    listener.add(waveform)
    for speech in listener.rest():
        decoder.hear(speech)
    return decoder


def write(decoder: Decoder, number: int, visible: int | None = None) -> list[list[int]]:
    """Commit the best tokens of every row, seen from all that was heard, and return those of each step."""
    rows: list[list[int]] = []
    for _ in range(number):
        attempts = decoder.attempt([visible or decoder.heard] * decoder.rows)
        rows.append([attempt.token_id for attempt in attempts])
        for row, attempt in enumerate(attempts):
            decoder.commit(row, attempt.token_id)
    return rows


def write_scored(decoder: Decoder, number: int) -> list[tuple[int, float]]:
    """Write tokens and return them with their log-probabilities, which depend on the speech more than the tokens do."""
    written = []
    for _ in range(number):
        (attempt,) = decoder.attempt([decoder.heard])
        written.append((attempt.token_id, attempt.log_prob))
        decoder.commit(0, attempt.token_id)
    return written
