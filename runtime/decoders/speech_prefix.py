"""The speech in an LLM's sequence: its embeddings, and which of them belong to the first steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestow_edge.core.specs.prepend import PrependConfig
from bestow_edge.core.tensors import POSITION_ENDS, SPEECH_EMBEDS
from bestow_edge.runtime.devices.base import Array, Buffer, Device
from bestow_edge.runtime.encoders.base import SpeechSteps

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpeechPrefix:
    """Speech heard so far."""

    config: PrependConfig
    """The connector's."""
    embeds: Array
    """(positions, hidden)."""
    ends: Ints
    """(positions,) step behind the last one of each position of a compressor; empty without one."""
    heard: int = 0
    """Steps heard."""

    def positions(self, steps: int) -> int:
        """Return how many positions the first steps take."""
        if self.config.compressor is not None:
            return int(np.searchsorted(self.ends, steps, side="right"))
        return steps and self.config.llm_positions(steps)

    def hear(self, speech: SpeechSteps, device: Device) -> SpeechPrefix:
        """Return the speech with more steps; they overwrite those that it has from their first one on."""
        tensors = self._read(speech.tensors, device)
        first = self.positions(speech.start)
        embeds, ends = tensors[SPEECH_EMBEDS][0], np.zeros(0, dtype=np.int64)
        if self.config.compressor is not None:
            found: Ints = tensors[POSITION_ENDS][0]
            new = int(((found > 0) & (found <= speech.end - speech.start)).sum())
            ends = np.concatenate([self.ends[:first], found[:new] + speech.start])
        else:
            new = self.config.llm_positions(speech.end - speech.start)
        embeds = np.concatenate([self.embeds[:first], embeds[:new]]) if first else embeds[:new]
        return SpeechPrefix(self.config, embeds, ends, speech.end)

    @staticmethod
    def _read(tensors: Mapping[str, Buffer], device: Device) -> dict[str, Array]:
        names = [name for name in (SPEECH_EMBEDS, POSITION_ENDS) if name in tensors]
        return dict(zip(names, device.get(*(tensors[name] for name in names)), strict=True))


def no_speech(config: PrependConfig) -> SpeechPrefix:
    """Return the prefix before any speech."""
    return SpeechPrefix(config, np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64))
