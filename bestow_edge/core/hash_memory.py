"""Files whose hash was compared before, so that loading a bundle hashes each file once. Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import read_json

MOST_FILES = 1000  # the oldest are forgotten


class HashMemory:
    """Hashes by path, with size, time of change and inode of the file then. A file that changed in any is hashed again.

    Whoever can write to this file or restore times of a file can deceive it; `bestow-edge verify` hashes always.
    """

    def __init__(self, path: Path) -> None:
        """Read what is known; a memory that is damaged or not readable knows nothing."""
        self._path = path
        self._known: dict[str, list[object]] = {}
        self._changed = False
        try:
            self._known = {name: state for name, state in read_json(path).items() if isinstance(state, list)}
        except (ConfigError, OSError):
            return

    def knows(self, path: Path, state: os.stat_result, sha256: str) -> bool:
        """Return whether a file in this state was found to have this hash."""
        return self._known.get(str(path.resolve())) == [*_state(state), sha256]

    def add(self, path: Path, state: os.stat_result, sha256: str) -> None:
        """Remember the hash of a file in the state from before it was read."""
        name = str(path.resolve())
        self._known.pop(name, None)
        self._known[name] = [*_state(state), sha256]
        self._changed = True

    def save(self) -> None:
        """Write what is new; where nothing can be written, files are hashed again next time."""
        if not self._changed:
            return
        kept = dict(list(self._known.items())[-MOST_FILES:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(kept))
        except OSError:
            return
        self._changed = False


def _state(state: os.stat_result) -> list[object]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
