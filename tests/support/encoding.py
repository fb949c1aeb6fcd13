"""Steps of an encoder's states, for tests that go back to an earlier state."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bestow_edge.runtime.encoders.base import SpeechEncoder, SpeechSteps

State = TypeVar("State")


def feed(
    encoder: SpeechEncoder[State], samples: npt.NDArray[np.float32], state: State
) -> tuple[list[SpeechSteps], State]:
    """Take samples in and encode the chunks that are there."""
    return encode(encoder, encoder.add(samples, state))


def finish(encoder: SpeechEncoder[State], state: State) -> list[SpeechSteps]:
    """End the audio and encode the rest."""
    return encode(encoder, encoder.end(state))[0]


def encode(encoder: SpeechEncoder[State], state: State) -> tuple[list[SpeechSteps], State]:
    """Encode the chunks that are there."""
    chunks = []
    while encoder.has_chunk(state):
        chunk, state = encoder.next_chunk(state)
        chunks.append(chunk)
    return chunks, state
