"""The detected language of a stream, as commands show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bestow_edge.cli.show.console import say, write_json
from bestow_edge.core.languages import LANGUAGES

if TYPE_CHECKING:
    from bestow_edge.runtime import Session
    from bestow_edge.runtime.records.trace import Tracer


class DetectedLanguage:
    """Shows the language of a stream once, as soon as it is detected; nothing if the prompts name it."""

    def __init__(self, session: Session | Tracer, prefix: str = "", *, as_json: bool = False) -> None:
        """Take a fresh session, what the line begins with, and whether it is JSON on stdout or words on stderr."""
        self._session, self._prefix, self._as_json = session, prefix, as_json
        self._awaited = session.language is None

    def show(self) -> None:
        """Show the language if it has been detected since the last call."""
        if not self._awaited or (code := self._session.language) is None:
            return
        self._awaited = False
        if self._as_json:
            write_json({"event": "language", "language": code})
        else:
            say(f"{self._prefix}language: {code} ({LANGUAGES[code]})")
