"""Share of decisions on real speech that quantisation leaves unchanged. No torch.

A float32 model answers each recording under the default policy; the other models then decide at each point what comes
next after that very answer, so that one difference does not make the rest of a text differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import ExportError
from bestow_edge.core.prompts import Pair, parse_pair
from bestow_edge.core.utterances import read_manifest
from bestow_edge.runtime.audio.files import read_audio
from bestow_edge.runtime.decoders.base import Decoder, hear_all
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.answer import Answer
from bestow_edge.runtime.stream.listener import Listener
from bestow_edge.runtime.stream.loop import decode

MOST_TOKENS = 24  # of an answer: a model that never ends one would take minutes
LEAST_AGREEMENT = 0.95


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance and what to ask about it."""

    path: Path
    """Where it came from."""
    waveform: npt.NDArray[np.float32]
    """(samples,) at the model's rate."""
    pair: Pair
    """Its language and a language to answer in."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: the next token, and the encoder steps that were visible then."""

    visible: int
    token_id: int
    written: bool
    """Whether the policy accepted the token: what follows is chosen after it."""


def read_recordings(manifest: Path, model: Model) -> list[Recording]:
    """Read the recordings whose language a model understands, once for each language it answers in.

    Raises:
        ManifestError: if the manifest is missing or has a bad line.
        ExportError: if no recording is in one of the model's languages.
    """
    pairs = [parse_pair(pair) for pair in model.config.pairs]
    recordings = [
        Recording(item.path, read_audio(item.path, model.sample_rate_hz), pair)
        for item in read_manifest(manifest)
        for pair in pairs
        if pair.source == item.source_lang
    ]
    if not recordings:
        spoken = ", ".join(sorted({pair.source for pair in pairs}))
        expected = f"give a manifest of speech in {spoken} (--utterances), or do without (--least-agreement 0)"
        raise ExportError(f"{manifest}: no recording in the model's languages; {expected}")
    return recordings


def answer(model: Model, recording: Recording) -> list[Choice]:
    """Return what a model decides about a recording under its default policy."""
    decoder = _heard(model, recording)
    text, choices, count = Answer(model.default_policy, MOST_TOKENS), list[Choice](), 0
    for attempt in decode(decoder, text, model.manifest.end_ids):
        choices.append(Choice(attempt.visible_steps, attempt.token_id, text.count > count))
        count = text.count
    return choices


def agreement(model: Model, recordings: Sequence[Recording], answers: Sequence[Sequence[Choice]]) -> float:
    """Return the share of decisions that a model, at each point of the answers, makes like the one that gave them.

    Raises:
        GraphError: if a probability is not a number.
        ExportError: if there are no decisions.
    """
    same = 0
    for recording, choices in zip(recordings, answers, strict=True):
        decoder = _heard(model, recording)
        for choice in choices:
            same += decoder.attempt([choice.visible])[0].token_id == choice.token_id
            if choice.written:
                decoder.commit(0, choice.token_id)
    if not (decisions := sum(map(len, answers))):
        raise ExportError("the fp32 model decides nothing about the recordings; check the checkpoint")
    return same / decisions


def _heard(model: Model, recording: Recording) -> Decoder:
    """Return a decoder that has heard a recording whole."""
    graphs, policy = model.graphs, model.default_policy
    encoder = model.open_encoder(graphs, [policy], model.config.encoder.default_right_context)
    listener = Listener(encoder, None)
    listener.add(recording.waveform)
    decoder = model.open_decoder(graphs, [model.prompt_ids(recording.pair) + model.condition(policy)])
    hear_all(decoder, listener.rest())
    decoder.end()
    return decoder
