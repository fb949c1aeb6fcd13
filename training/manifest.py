"""Speech manifests: JSON lines with NeMo's field names. Knows files and fields, not audio.

A line has `audio_filepath` (relative to the manifest), `duration` and `text`, and may have `offset`, `source_lang`,
`target_lang`, `transcript`, `speaker` and `translations` {language: text}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestow_edge.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and what was said in it."""

    path: Path
    duration_s: float
    offset_s: float
    source_lang: str
    texts: Mapping[str, str]
    """Text by language; the source language's entry, if there is one, is the transcript."""
    speaker: str
    corpus: str
    """The manifest it came from, one name per directory."""


def read_manifest(path: Path) -> list[Utterance]:
    """Read all lines of a manifest.

    Raises:
        ManifestError: the file is missing or empty, or a line is not valid; says which line and why.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; expected a file of JSON lines")
    utterances = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                utterances.append(_utterance(line, path, number))
    if not utterances:
        raise ManifestError(f"{path}: no lines; expected one JSON object a line")
    return utterances


def _utterance(line: str, manifest: Path, number: int) -> Utterance:
    where = f"{manifest}:{number}"
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not valid JSON ({error.msg})") from error
    if not isinstance(entry, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(entry).__name__}")
    duration = _field(entry, "duration", (int, float), where)
    if duration <= 0:
        raise ManifestError(f"{where}: duration {duration} s; expected more than 0")
    source = str(entry.get("source_lang") or entry.get("lang") or "en")
    target = entry.get("target_lang", source)
    texts = dict(entry.get("translations") or {})
    texts[target] = _field(entry, "text", str, where)
    if target != source and isinstance(entry.get("transcript"), str):
        texts[source] = entry["transcript"]
    return Utterance(
        path=manifest.parent / _field(entry, "audio_filepath", str, where),
        duration_s=float(duration),
        offset_s=float(entry.get("offset") or 0.0),
        source_lang=source,
        texts=texts,
        speaker=str(entry.get("speaker", "")),
        corpus=manifest.parent.name,
    )


def _field(entry: dict[str, Any], key: str, kind: Any, where: str) -> Any:  # Any: JSON values, checked here
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{where}: {key} is {value!r:.60}; expected {'text' if kind is str else 'a number'}")
    return value
