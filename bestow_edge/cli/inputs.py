"""The audio that `bestow-edge run` is given: files, folders, patterns, named pipes and standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bestow_edge.core.errors import AudioError

if TYPE_CHECKING:
    from bestow_edge.runtime.audio.files import Audio, PipedAudio

STDIN = "-"
SUFFIXES = {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"),
    *(".m4a", ".aac", ".mp4", ".mov", ".mkv", ".webm", ".wma", ".avi", ".amr"),
}
"""Of the files that are taken from a folder."""


@dataclass(frozen=True, slots=True)
class Input:
    """One recording."""

    path: Path

    def __str__(self) -> str:
        return "standard input" if self.is_stdin else str(self.path)

    @property
    def is_stdin(self) -> bool:
        """Whether it is the command's standard input."""
        return str(self.path) == STDIN

    @property
    def stem(self) -> str:
        """Its name without folder and suffix, for files about it."""
        return "stdin" if self.is_stdin else self.path.stem

    def open(self, sample_rate_hz: int, raw_rate_hz: int | None) -> Audio | PipedAudio:
        """Open it to read it block by block.

        Raises:
            AudioError: it is no audio, or standard input is a keyboard.
        """
        from bestow_edge.runtime.audio.files import open_audio

        if not self.is_stdin:
            return open_audio(self.path, sample_rate_hz, raw_rate_hz=raw_rate_hz)
        if os.isatty(0):
            example = "ffmpeg -i talk.mp4 -f wav - | bestow-edge run -"
            raise AudioError(f"{self} is a terminal, expected audio; pipe some into it, for example: {example}")
        stdin = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - the audio closes it
        return open_audio(stdin, sample_rate_hz, name=str(self), raw_rate_hz=raw_rate_hz)


def find_inputs(arguments: Sequence[Path]) -> list[Input]:
    """Return the recordings that arguments name: the audio files of a folder, and those that fit a pattern, sorted.

    What is no file, a folder without audio and a pattern that fits nothing stay in the list and are reported in turn.

    Raises:
        AudioError: `-` is given twice.
    """
    found = [Input(path) for argument in arguments for path in _paths(argument)]
    if sum(item.is_stdin for item in found) > 1:
        raise AudioError("standard input (-) is given twice; it can be read once")
    return found


def _paths(argument: Path) -> list[Path]:
    if argument.is_dir():
        found = [path for path in argument.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    elif glob.has_magic(str(argument)) and not argument.exists():
        names = glob.glob(str(argument), recursive=True)  # noqa: PTH207 - a pattern may be absolute
        found = [path for path in map(Path, names) if not path.is_dir()]
    else:
        found = []
    return sorted(found) or [argument]
