"""Evaluation manifests: recordings and their references, in three formats.

- JSON lines with NeMo's fields (`.json`, `.jsonl`), see `bestow_edge.core.utterances`; they may have questions and
  answers;
- tab-separated values (`.tsv`) with a header: `path` and `sentence` as in Common Voice, `translation` as in CoVoST;
- SimulEval's lists: one audio file a line, and the references in a second file.

The whole manifest is checked before a model runs. An error names file and line and ends the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.prompts import Pair
from bestow_edge.core.utterances import Utterance, numbered_lines, numbered_utterances

JSON_SUFFIXES = (".json", ".jsonl")
CLIPS = "clips"
"""Folder beside Common Voice's tables that holds the recordings."""
ROUNDING_S = 0.05
"""Durations in manifests are rounded: an utterance that ends this near to the end of its file ends there."""
EXCESS_S = 0.5
"""A duration that exceeds the file by more than this is an error."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One recording and its reference."""

    path: Path
    """Audio file."""
    offset_s: float
    """Its start in the file, seconds."""
    duration_s: float | None
    """Its length, seconds; None = to the end of the file."""
    length_s: float
    """Its length, also where `duration_s` is None, seconds."""
    reference: str
    """The right text."""
    question: str = ""
    """A question about the recording; empty = its text is asked for."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a manifest."""

    items: tuple[Sample, ...]
    """In the order of the manifest."""
    left_out: int
    """Lines of a NeMo manifest that were skipped: speech in another language, or without the question that is asked."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a manifest, before its audio file is checked."""

    where: str
    path: Path
    offset_s: float
    duration_s: float | None
    reference: str
    question: str = ""


def read_samples(
    manifest: Path, pair: Pair, *, questions: bool = False, target: Path | None = None, audio: Path | None = None
) -> Samples:
    """Read and check a manifest.

    Args:
        manifest: the file. Its suffix is the format: `.json` and `.jsonl` NeMo's, `.tsv` a table, others SimulEval's
            source list.
        pair: languages; those of the references are `pair.target`.
        questions: ask the `question` of each line; its `answer` is the reference. Only NeMo's manifests have them.
        target: SimulEval's target list, for a source list only.
        audio: directory that paths are relative to; None = that of the manifest, for tables also `clips` in it.

    Raises:
        ManifestError: if a file is missing or not UTF-8, a line lacks a field or repeats another line, a duration is
            negative or exceeds the file, a reference is empty, or an audio file is missing or cannot be read.
    """
    suffix = manifest.suffix.lower()
    listed = suffix not in {*JSON_SUFFIXES, ".tsv"}
    if listed != (target is not None):
        expected = (
            "a source list needs a target list (--target)" if listed else f"a {suffix} manifest has its own texts"
        )
        raise ManifestError(f"{manifest}: {expected}; manifests are .jsonl, .json, .tsv, or two lists")
    if questions and suffix not in JSON_SUFFIXES:
        raise ManifestError(f"{manifest}: questions are asked from .jsonl and .json manifests with question and answer")
    left_out = 0
    if target is not None:
        lines = list(_lists(manifest, target, audio or manifest.parent))
    elif suffix == ".tsv":
        lines = list(_table(manifest, pair, audio))
    else:
        numbered = numbered_utterances(manifest, default_lang=pair.source)
        lines = list(_nemo(numbered, manifest, pair, audio, questions=questions))
        left_out = len(numbered) - len(lines)
    if not lines:
        without = "are in other languages or have no question" if questions else "are in other languages"
        raise ManifestError(f"{manifest}: nothing to evaluate for {pair}; {left_out} lines {without}")
    _check_unique(lines)
    return Samples(tuple(map(_checked, lines)), left_out)


def _nemo(
    numbered: Sequence[tuple[int, Utterance]], manifest: Path, pair: Pair, audio: Path | None, *, questions: bool
) -> Iterator[_Line]:
    """Yield the lines in the language of the pair; with `questions` those that have one."""
    for number, item in numbered:
        if item.source_lang != pair.source or (questions and not item.question):
            continue
        where, path, target = f"{manifest}:{number}", item.path, pair.target
        if not questions and target not in item.texts:
            has = ", ".join(item.texts) or "none"
            raise ManifestError(f"{where}: no text in {target}, it has {has}; add it as translations.{target}")
        if audio is not None and path.is_relative_to(manifest.parent):
            path = audio / path.relative_to(manifest.parent)
        reference, question = (item.answer, item.question) if questions else (item.texts[target], "")
        yield _Line(where, path, item.offset_s, item.duration_s, reference, question)


def _table(manifest: Path, pair: Pair, audio: Path | None) -> Iterator[_Line]:
    """Yield the rows of a table. Quotes are ordinary characters in these corpora, so this is not a CSV reader."""
    wanted = "sentence" if pair.task == "transcribe" else "translation"
    rows = list(numbered_lines(manifest, "a table with a header"))
    if not rows:
        raise ManifestError(f"{manifest}: no lines; expected a header and rows")
    header = rows[0][1].split("\t")
    if missing := [name for name in ("path", wanted) if name not in header]:
        raise ManifestError(f"{manifest}:{rows[0][0]}: no column {missing[0]} for {pair}; found {', '.join(header)}")
    folders = [audio] if audio is not None else [manifest.parent, manifest.parent / CLIPS]
    for number, line in rows[1:]:
        cells = line.split("\t")
        where = f"{manifest}:{number}"
        if len(cells) != len(header):
            raise ManifestError(f"{where}: {len(cells)} columns; expected {len(header)} as in the header")
        row = dict(zip(header, cells, strict=True))
        paths = [folder / row["path"] for folder in folders]
        path = next((path for path in paths if path.is_file()), paths[0])
        yield _Line(where, path, 0.0, None, row[wanted])


def _lists(source: Path, target: Path, audio: Path) -> Iterator[_Line]:
    """Yield the lines of SimulEval's two lists. Equal line numbers belong together."""
    sources = dict(numbered_lines(source, "a list of audio files"))
    targets = dict(numbered_lines(target, "a list of references"))
    if not sources:
        raise ManifestError(f"{source}: no lines; expected one audio file a line")
    if extra := sorted(targets.keys() - sources.keys()):
        raise ManifestError(f"{target}:{extra[0]}: a reference without a line in {source}; the lists differ in length")
    for number, line in sources.items():
        if number not in targets:
            raise ManifestError(f"{target}:{number}: no reference, but {source} has a recording in that line")
        yield _Line(f"{source}:{number}", audio / line.strip(), 0.0, None, targets[number].strip())


def _check_unique(lines: Sequence[_Line]) -> None:
    first: dict[tuple[Path, float, float | None, str], str] = {}
    for line in lines:
        key = line.path.resolve(), line.offset_s, line.duration_s, line.question
        if key in first:
            once = "every question about a recording" if line.question else "every recording"
            raise ManifestError(f"{line.where}: repeats {first[key]} ({line.path}); {once} may occur once")
        first[key] = line.where


def _checked(line: _Line) -> Sample:
    """Check the reference and the audio file of a line."""
    if not line.reference.strip():
        raise ManifestError(f"{line.where}: the reference is empty; write what is said or remove the line")
    if not line.path.is_file():
        raise ManifestError(f"{line.where}: no such audio file: {line.path}")
    try:
        header = soundfile.info(line.path)
    except soundfile.LibsndfileError as error:
        raise ManifestError(f"{line.where}: {line.path} cannot be read as audio ({error})") from error
    rest_s = header.frames / header.samplerate - line.offset_s
    if rest_s <= 0 or (line.duration_s or 0.0) > rest_s + EXCESS_S:
        wanted = f"{line.duration_s} s from {line.offset_s} s"
        raise ManifestError(f"{line.where}: {wanted}, but {line.path} has {header.frames / header.samplerate:.2f} s")
    whole = line.duration_s is None or line.duration_s > rest_s - ROUNDING_S
    duration_s = None if whole else line.duration_s
    return Sample(line.path, line.offset_s, duration_s, duration_s or rest_s, line.reference.strip(), line.question)
