"""Speech manifests: JSON lines with NeMo's field names. Knows files and fields, not audio. Standard library only.

A line has `audio_filepath` (relative to the manifest), `duration` and `text`, and may have `offset`, `source_lang`,
`target_lang`, `transcript`, `speaker` and `translations` {language: text}. Training reads them as they are;
`bestow_edge.evaluation.manifest` asks for more.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
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
    return [utterance for _, utterance in numbered_utterances(path)]


def numbered_utterances(path: Path, *, default_lang: str = "en") -> list[tuple[int, Utterance]]:
    """Read all lines of a manifest with their numbers, from 1.

    Args:
        path: the manifest.
        default_lang: language of the speech where a line does not say.

    Raises:
        ManifestError: the file is missing or empty, or a line is not valid; says which line and why.
    """
    lines = list(numbered_lines(path, "a file of JSON lines"))
    if not lines:
        raise ManifestError(f"{path}: no lines; expected one JSON object a line")
    return [(number, _utterance(line, path, number, default_lang)) for number, line in lines]


def numbered_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers, from 1.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        expected: what the file should be, for messages.

    Raises:
        ManifestError: the file is missing or a line is not UTF-8.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; expected {expected}")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            problem = f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8"
            raise ManifestError(f"{path}:{number}: {problem}; save the file as UTF-8") from error
        if text.strip():
            yield number, text


def _utterance(line: str, manifest: Path, number: int, default_lang: str) -> Utterance:
    where = f"{manifest}:{number}"
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not valid JSON ({error.msg})") from error
    if not isinstance(entry, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(entry).__name__}")
    duration = _field(entry, "duration", (int, float), where)
    if not duration > 0:
        raise ManifestError(f"{where}: duration {duration} s; expected more than 0")
    offset = 0.0 if entry.get("offset") is None else _field(entry, "offset", (int, float), where)
    if not offset >= 0:
        raise ManifestError(f"{where}: offset {offset} s; expected 0 or more")
    source = str(entry.get("source_lang") or entry.get("lang") or default_lang)
    return Utterance(
        path=manifest.parent / _field(entry, "audio_filepath", str, where),
        duration_s=float(duration),
        offset_s=float(offset),
        source_lang=source,
        texts=_texts(entry, source, where),
        speaker=str(entry.get("speaker", "")),
        corpus=manifest.parent.name,
    )


def _texts(entry: dict[str, Any], source: str, where: str) -> dict[str, str]:
    """Return the texts of a line by language."""
    target = str(entry.get("target_lang") or source)
    texts = entry.get("translations") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ManifestError(f"{where}: translations is {texts!r:.60}; expected an object of texts by language")
    texts = texts | {target: _field(entry, "text", str, where)}
    if target != source and isinstance(entry.get("transcript"), str):
        texts[source] = entry["transcript"]
    return texts


def _field(entry: dict[str, Any], key: str, kind: Any, where: str) -> Any:  # Any: JSON values, checked here
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{where}: {key} is {value!r:.60}; expected {'text' if kind is str else 'a number'}")
    return value
