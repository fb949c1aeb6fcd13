"""The language of a stream: its prompts name it, or it is detected in its first words.

Until the first token is written, each encoding is asked for the most probable language; then it is settled. The first
token waits until enough was heard behind the place where it is spoken: silence before the speech does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.prompts import AUTO, AboutSpeech
from bestow_edge.runtime.decoders.base import Attempt, Decoder

if TYPE_CHECKING:
    from bestow_edge.runtime.model import Model


class SpokenLanguage:
    """Language of a stream, and its prompts in that language."""

    def __init__(self, model: Model, asked: Sequence[AboutSpeech], hotwords: Sequence[Hotword] = ()) -> None:
        """Take the pairs and questions of a session, which may leave the language to detection, and its hotwords."""
        self._model, self._asked, self._hotwords = model, asked, hotwords
        connector = model.config.connector
        self._detects, self._steps = connector.detects, connector.detection_steps
        self.settled = all(one.source != AUTO for one in asked)
        """Whether it is known for the rest of the stream."""
        self.code: str | None = asked[0].source if self.settled else None
        """The language, as far as it is known; None before any speech."""

    def prompt_ids(self) -> list[tuple[int, ...]]:
        """Return the token ids of each prompt; before any speech they are in any of the languages."""
        return self._ids_in(self.code or self._detects[0])

    def most_tokens(self) -> int:
        """Return the tokens of the longest prompt in any of the languages that it may be."""
        codes = self._detects if self.code is None else (self.code,)
        return max(len(ids) for code in codes for ids in self._ids_in(code))

    def detect(self, decoder: Decoder) -> bool:
        """Detect the language in the speech that a decoder has heard, unless it is settled; return whether it changed.

        The decoder does not change.
        """
        if self.settled or not decoder.heard:
            return False
        (attempt,) = decoder.branch([self._model.start_ids]).attempt([decoder.heard])
        before, self.code = self.code, self._detects[int(attempt.languages.argmax())]
        return self.code != before

    def waits(self, attempt: Attempt) -> bool:
        """Return whether too little has been heard, since the first word began, to settle the language by it."""
        return not self.settled and attempt.visible_steps - attempt.span()[0] < self._steps

    def _ids_in(self, code: str) -> list[tuple[int, ...]]:
        return [self._model.prompt_ids(one.spoken(code), self._hotwords) for one in self._asked]
