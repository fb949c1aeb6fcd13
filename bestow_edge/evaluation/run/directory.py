"""The directory of an evaluation. Finished utterances are logged at once, so a run can be stopped at any time.

DIR/evaluation.json            description of the evaluation; a different one is refused in the same directory
DIR/SETTING/instances.log      SimulEval's log of a setting; one line for each finished utterance
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import read_json
from bestow_edge.evaluation.run.samples import Samples
from bestow_edge.evaluation.run.settings import Setting
from bestow_edge.evaluation.scores.instances import Instance, log_text, parse_line

EVALUATION_FILE = "evaluation.json"
LOG_FILE = "instances.log"
RESULTS_FILE = "results.json"
FORMAT = "bestow-edge-evaluation"
FORMAT_VERSION = 1


class Store:
    """The directory of one evaluation."""

    def __init__(self, directory: Path, evaluated: Mapping[str, Any]) -> None:
        """Open the directory, or create it.

        Args:
            directory: of the results.
            evaluated: fields that must be equal for an earlier run to be continued, as JSON.

        Raises:
            ConfigError: if it holds other files or another evaluation.
        """
        self.directory = directory
        path = directory / EVALUATION_FILE
        record = {"format": FORMAT, "format_version": FORMAT_VERSION, **evaluated}
        if path.is_file():
            _check_same(path, record)
            return
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"{directory} exists and is no evaluation; choose another --out")
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def finished(self, setting: Setting, number: int) -> dict[int, Instance]:
        """Return the finished utterances of a setting by index.

        Args:
            setting: the setting.
            number: utterances of the evaluation.

        Raises:
            ConfigError: if the log is damaged. An incomplete last line is no damage: it is removed.
        """
        path = self._log(setting)
        if not path.is_file():
            return {}
        lines = path.read_bytes().split(b"\n")
        whole = lines[:-1]  # text behind the last line end was being written when the run was stopped
        if lines[-1]:
            write_atomically(path, b"".join(line + b"\n" for line in whole))
        try:
            found = [parse_line(line, f"{path}:{row}") for row, line in enumerate(whole, 1)]
        except ManifestError as error:
            raise ConfigError(f"{error}; delete the file to evaluate its setting again") from error
        if any(not 0 <= instance.index < number for instance in found):
            raise ConfigError(f"{path}: holds other utterances; delete it to evaluate its setting again")
        return {instance.index: instance for instance in found}

    def add(self, setting: Setting, instance: Instance) -> None:
        """Append a finished utterance to the log of a setting."""
        path = self._log(setting)
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(instance.to_line() + "\n")

    def complete(self, setting: Setting, number: int) -> list[Instance]:
        """Sort the log of a setting whose utterances are all finished, and return its instances."""
        found = self.finished(setting, number)
        if len(found) != number:
            raise RuntimeError(f"{setting.name}: {len(found)} of {number} utterances are finished")
        instances = [found[index] for index in range(number)]
        write_atomically(self._log(setting), log_text(instances))
        return instances

    def write(self, name: str, content: str | bytes, setting: Setting | None = None) -> None:
        """Write a file of the whole evaluation or of one setting."""
        write_atomically((self.directory if setting is None else self._log(setting).parent) / name, content)

    def _log(self, setting: Setting) -> Path:
        return self.directory / setting.name / LOG_FILE


def samples_sha256(samples: Samples) -> str:
    """Return a hash over the samples: file name, offset, lengths, reference and, if there is one, the question."""
    rows = []
    for item in samples.items:
        row = [item.path.name, item.offset_s, item.duration_s, item.length_s, item.reference]
        rows.append([*row, item.question] if item.question else row)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _check_same(path: Path, new: Mapping[str, Any]) -> None:
    try:
        old = read_json(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; choose another --out") from error
    for name in [*new, *old]:
        if old.get(name) != new.get(name):
            was, now = (json.dumps(record.get(name), ensure_ascii=False) for record in (old, new))
            raise ConfigError(f"{path.parent} holds an evaluation with {name} {was}, not {now}; choose another --out")
