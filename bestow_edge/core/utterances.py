"""Speech manifests: JSON lines with NeMo's field names. Standard library only.

A line has `audio_filepath` (relative to the manifest), `duration` and `text`, and may have `offset`, `source_lang`,
`target_lang`, `transcript`, `speaker`, `translations` {language: text} and `word_times`. With `question` and `answer`
it is spoken question answering and needs no `text`. The index of a shard has `audio_bytes` too, the position of the
recording in the tar. Files may be gzipped (`.jsonl.gz`).

Training (`bestow_edge.training.data.corpora`) and evaluation (`bestow_edge.evaluation.run.samples`) read these files.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from bestow_edge.core import json_text
from bestow_edge.core.errors import ConfigError, ManifestError

LINES = "a file of JSON lines"
ROUNDING_S = 0.5
"""A word may end this much after its recording, because durations are rounded."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its texts."""

    path: Path
    duration_s: float
    offset_s: float
    source_lang: str
    texts: Mapping[str, str]
    """Text by language. The text in the source language, if there is one, is the transcript."""
    speaker: str
    corpus: str
    """Name of the manifest's directory."""
    question: str = ""
    """A question about the speech; empty = none."""
    answer: str = ""
    """The answer to the question."""
    word_times: tuple[tuple[float, float], ...] = ()
    """Start and end of each word of the transcript, seconds from the start of the utterance; empty = unknown."""
    audio_bytes: tuple[int, int] | None = None
    """First byte and number of bytes of the recording in `path`, a tar; None = the file is the recording."""

    @property
    def transcript(self) -> str | None:
        """The text in the language of the speech, None if it is missing."""
        return self.texts.get(self.source_lang)


def read_manifest(path: Path) -> list[Utterance]:
    """Read all lines of a manifest.

    Raises:
        ManifestError: if the file is missing or empty, or a line is not valid.
    """
    return [utterance for _, utterance in numbered_utterances(path)]


def numbered_utterances(path: Path, *, default_lang: str = "en") -> list[tuple[int, Utterance]]:
    """Read all lines of a manifest with their numbers, from 1; `default_lang` is as for `parse_utterance`.

    Raises:
        ManifestError: if the file is missing or empty, or a line is not valid.
    """
    lines = list(numbered_lines(path, LINES))
    if not lines:
        raise ManifestError(f"{path}: no lines; expected one JSON object a line")
    return [(number, parse_utterance(line, path, number, default_lang)) for number, line in lines]


def numbered_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers, from 1.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        expected: what the file should be, for messages.

    Raises:
        ManifestError: if the file is missing or a line is not UTF-8.
    """
    for number, _, line in raw_lines(path, expected):
        yield number, decode_line(line, f"{path}:{number}")


def raw_lines(path: Path, expected: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), first byte in the file as decompressed, and bytes of each line that is not blank.

    One line is in memory at a time, so files may have any size.

    Args:
        path: the file; `.gz` is decompressed.
        expected: what the file should be, for messages.

    Raises:
        ManifestError: if the file is missing, or ends in `.gz` and is not gzip.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; expected {expected}")
    offset = 0
    try:
        with open_plain(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: not a whole gzip file ({error}); compress it again") from error


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading. A file that ends in `.gz` is decompressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def decode_line(line: bytes, where: str) -> str:
    """Return a line as text, without line end and byte order mark.

    Raises:
        ManifestError: if it is not UTF-8.
    """
    line = line.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8"
        raise ManifestError(f"{where}: {problem}; save the file as UTF-8") from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Read a line as a JSON object.

    Raises:
        ManifestError: if it is not a JSON object.
    """
    try:
        return json_text.parse_object(line, where)
    except ConfigError as error:
        raise ManifestError(str(error)) from error


def parse_utterance(line: str, manifest: Path, number: int, default_lang: str = "en") -> Utterance:
    """Read one line of a manifest; its speech is in `default_lang` if it names no language.

    Raises:
        ManifestError: if it is not valid.
    """
    where = f"{manifest}:{number}"
    entry = parse_object(line, where)
    duration = _field(entry, "duration", (int, float), where)
    if not duration > 0:
        raise ManifestError(f"{where}: duration {duration} s; expected more than 0")
    offset = 0.0 if entry.get("offset") is None else _field(entry, "offset", (int, float), where)
    if not offset >= 0:
        raise ManifestError(f"{where}: offset {offset} s; expected 0 or more")
    source = str(entry.get("source_lang") or entry.get("lang") or default_lang)
    question, answer = _question(entry, where)
    texts = {} if question and entry.get("text") is None else texts_by_language(entry, source, where)
    return Utterance(
        path=manifest.parent / _field(entry, "audio_filepath", str, where),
        duration_s=float(duration),
        offset_s=float(offset),
        source_lang=source,
        texts=texts,
        speaker=str(entry.get("speaker", "")),
        corpus=manifest.parent.name,
        question=question,
        answer=answer,
        word_times=_word_times(entry, texts.get(source), duration, where),
        audio_bytes=_audio_bytes(entry, where),
    )


def texts_by_language(entry: Mapping[str, Any], source: str, where: str) -> dict[str, str]:
    """Return the texts of a line by language, from `text`, `target_lang`, `transcript` and `translations`.

    Raises:
        ManifestError: if one of these fields is missing or is not text.
    """
    target = str(entry.get("target_lang") or source)
    texts = entry.get("translations") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ManifestError(f"{where}: translations is {texts!r:.60}; expected an object of texts by language")
    texts = texts | {target: _field(entry, "text", str, where)}
    if target != source and isinstance(entry.get("transcript"), str):
        texts[source] = entry["transcript"]
    return texts


def _question(entry: Mapping[str, Any], where: str) -> tuple[str, str]:
    if entry.get("question") is None:
        return "", ""
    question, answer = (_field(entry, key, str, where).strip() for key in ("question", "answer"))
    if not question or not answer:
        empty = "answer" if question else "question"
        raise ManifestError(f"{where}: {empty} is empty; expected text in both question and answer")
    return question, answer


def _word_times(
    entry: Mapping[str, Any], transcript: str | None, duration_s: float, where: str
) -> tuple[tuple[float, float], ...]:
    times = entry.get("word_times")
    if times is None:
        return ()
    expected = "a list of [start, end] in seconds, one for each word of the transcript"
    if not isinstance(times, list) or not all(_is_pair_of_numbers(span) for span in times):
        raise ManifestError(f"{where}: word_times is {times!r:.60}; expected {expected}")
    if len(times) != len(words := (transcript or "").split()):
        raise ManifestError(f"{where}: word_times has {len(times)} entries for {len(words)} words; expected {expected}")
    last = 0.0
    for start, end in times:
        if not last <= start <= end <= duration_s + ROUNDING_S:
            limits = f"words in order, each within 0 and the duration {duration_s} s"
            raise ManifestError(f"{where}: word_times has [{start}, {end}] after {last}; expected {limits}")
        last = start
    return tuple((float(start), float(end)) for start, end in times)


def _is_pair_of_numbers(span: object) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(type(value) in (int, float) for value in span)


def _audio_bytes(entry: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    span = entry.get("audio_bytes")
    if span is None:
        return None
    if not isinstance(span, list) or len(span) != 2 or not all(type(value) is int and value >= 0 for value in span):
        raise ManifestError(f"{where}: audio_bytes is {span!r:.60}; expected [first byte, number of bytes]")
    return span[0], span[1]


def _field(entry: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:  # Any: JSON values, checked here
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{where}: {key} is {value!r:.60}; expected {'text' if kind is str else 'a number'}")
    return value
