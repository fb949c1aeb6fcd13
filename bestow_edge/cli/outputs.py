"""Where `bestow-edge run` writes texts: the form, and the file of each text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.formats import FORMATS, TIMED, TextFormat
from bestow_edge.core.prompts import AboutSpeech, Question

if TYPE_CHECKING:
    from bestow_edge.cli.inputs import Input


@dataclass(frozen=True, slots=True)
class Output:
    """Form and place of all texts of a command."""

    form: TextFormat
    path: Path | None
    """A file, or a folder with a file for each text; None = stdout."""
    in_folder: bool

    @property
    def timed(self) -> bool:
        """Whether the times of words stand in it."""
        return self.form in TIMED

    def paths(self, item: Input, prompts: Sequence[AboutSpeech]) -> list[Path]:
        """Return the file of each text, or one file of all for JSON; none for stdout."""
        if self.path is None:
            return []
        folder, stem = (self.path, item.stem) if self.in_folder else (self.path.parent, self.path.stem)
        suffix = f".{self.form}" if self.in_folder else self.path.suffix
        if self.form == "json" or len(prompts) == 1:
            return [folder / f"{stem}{suffix}"]
        asked = [prompt for prompt in prompts if isinstance(prompt, Question)]
        names = [f"answer-{asked.index(one) + 1}" if isinstance(one, Question) else str(one) for one in prompts]
        return [folder / f"{stem}.{name}{suffix}" for name in names]


def choose_output(
    path: Path | None, form: TextFormat | None, *, as_json: bool, inputs: Sequence[Input], num_texts: int
) -> Output:
    """Return form and place of texts, before long work begins.

    Raises:
        ConfigError: options exclude each other, or files would have the same name.
    """
    in_folder = path is not None and (path.is_dir() or str(path).endswith(("/", os.sep)) or not path.suffix)
    output = Output(_choose_form(None if in_folder else path, form, as_json=as_json), path, in_folder)
    if path is not None:
        _check_files(output, path, inputs)
    elif output.timed and (num_texts > 1 or len(inputs) > 1):
        what = f"{num_texts} texts" if num_texts > 1 else f"{len(inputs)} recordings"
        raise ConfigError(f"--format {output.form} of {what}: give --output FOLDER, for a file of each")
    return output


def _choose_form(file: Path | None, form: TextFormat | None, *, as_json: bool) -> TextFormat:
    if as_json and form not in {None, "json"}:
        raise ConfigError(f"--json and --format {form}: give one of them")
    if form is not None or as_json:
        return form or "json"
    if file is None:
        return "txt"
    for known in FORMATS:
        if file.suffix.lower() == f".{known}":
            return known
    raise ConfigError(f"--output {file}: its suffix is none of {', '.join(FORMATS)}; give --format")


def _check_files(output: Output, path: Path, inputs: Sequence[Input]) -> None:
    if not output.in_folder and len(inputs) > 1:
        raise ConfigError(f"--output {path}: is one file for {len(inputs)} recordings; give a folder")
    if not output.in_folder and not path.parent.is_dir():
        raise ConfigError(f"--output {path}: no such folder, {path.parent}; make it first")
    for stem, count in Counter(item.stem for item in inputs).items():
        if count > 1:
            raise ConfigError(f"--output {path}: {count} recordings are named {stem}; write them to different folders")
