"""Sessions and decoders driven by tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from bestow_edge.core.policy import Offline
from bestow_edge.runtime.decoders.base import Decoder
from bestow_edge.runtime.model import Model
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
