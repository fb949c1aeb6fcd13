"""One evaluated utterance, and logs of utterances in SimulEval's format. Standard library only.

A log (`instances.log`) has one JSON object a line. Times are milliseconds from the start of the utterance: `delays` is
the audio given until a word was written, `elapsed` the same plus all computing time until then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from bestow_edge.core.errors import ConfigError, ManifestError
from bestow_edge.core.json_text import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """Words written for one utterance, and their times."""

    index: int
    """Number in the manifest, from 0."""
    prediction: str
    """Words written, joined by single spaces."""
    reference: str | None
    """The right text; None = unknown."""
    delays: tuple[float, ...]
    """Audio given when each word was written, ms."""
    elapsed: tuple[float, ...] = ()
    """The same plus computing time, ms; empty = not measured."""
    source_length: float
    """Length of the audio, ms."""
    source: tuple[str, ...] = ()
    """Path of the audio."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the line."""

    @property
    def reference_words(self) -> int:
        """Words of the reference, counted as SimulEval does; without a reference the words written."""
        return len(self.delays) if self.reference is None else len(self.reference.split(" "))

    def to_line(self) -> str:
        """Return the line of a log, without its end."""
        record = {
            "index": self.index,
            "prediction": self.prediction,
            "delays": list(self.delays),
            "elapsed": list(self.elapsed),
            "prediction_length": len(self.delays),
            "reference": self.reference,
            "source": list(self.source),
            "source_length": self.source_length,
        }
        return json.dumps({**self.extra, **record}, ensure_ascii=False)


def read_log(path: Path) -> list[Instance]:
    """Read all instances of a log.

    Raises:
        ManifestError: if the file is missing, empty or not UTF-8, or a line is not an instance.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such log; expected a file of JSON lines")
    instances = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            instances.append(parse_line(line, f"{path}:{number}"))
    if not instances:
        raise ManifestError(f"{path}: no lines; expected one JSON object a line")
    return instances


def log_text(instances: Iterable[Instance]) -> str:
    """Return the content of a log."""
    return "".join(f"{instance.to_line()}\n" for instance in instances)


def parse_line(line: bytes, where: str) -> Instance:
    """Read one line of a log.

    Args:
        line: UTF-8.
        where: file and line number, for messages.

    Raises:
        ManifestError: if it is not an instance.
    """
    try:
        entry = parse_json(line, where)
    except ConfigError as error:
        raise ManifestError(f"{where}: not a line of JSON in UTF-8 ({error})") from error
    if not isinstance(entry, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(entry).__name__}")
    delays = _times(entry, "delays", where)
    elapsed = _times(entry, "elapsed", where)
    if elapsed and len(elapsed) != len(delays):
        raise ManifestError(f"{where}: {len(delays)} delays but {len(elapsed)} elapsed; expected one of each a word")
    length = entry.get("source_length")
    if not _is_number(length) or not length > 0:
        raise ManifestError(f"{where}: source_length is {length!r:.60}; expected milliseconds, more than 0")
    known = {"index", "prediction", "prediction_length", "reference", "delays", "elapsed", "source", "source_length"}
    source = entry.get("source") or ()
    if not isinstance(source, str | list | tuple):
        raise ManifestError(f"{where}: source is {source!r:.60}; expected the path of the audio")
    return Instance(
        index=_field(entry, "index", int, where),
        prediction=_field(entry, "prediction", str, where),
        reference=None if entry.get("reference", "") is None else str(entry.get("reference", "")),
        delays=delays,
        elapsed=elapsed,
        source_length=float(length),
        source=(source,) if isinstance(source, str) else tuple(map(str, source)),
        extra={name: value for name, value in entry.items() if name not in known},
    )


def _times(entry: dict[str, Any], key: str, where: str) -> tuple[float, ...]:
    values = entry.get(key) or []
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise ManifestError(f"{where}: {key} is {values!r:.60}; expected a list of milliseconds")
    return tuple(map(float, values))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _field(entry: dict[str, Any], key: str, kind: type, where: str) -> Any:  # Any: JSON values, checked here
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{where}: {key} is {value!r:.60}; expected {kind.__name__}")
    return value
