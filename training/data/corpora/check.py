"""Checks of manifests, shards and text files: every line is parsed and every recording is decoded, in threads.

A check reads on after a problem and reports all of them, whereas training stops at the first.
"""

from __future__ import annotations

import io
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np

from bestow_edge.core.errors import AudioError, ManifestError
from bestow_edge.core.languages import LANGUAGES
from bestow_edge.core.utterances import LINES, Utterance, parse_utterance
from bestow_edge.training.data.corpora.recordings import Samples, decode
from bestow_edge.training.data.corpora.text_files import LineFile

AT_ONCE = 256  # lines given to the threads at once
LENGTH_S = 0.1  # allowed difference between a duration and the recording's
SILENT_DB = -60.0  # a recording with an RMS below this, full scale = 0, is silent
Progress = Callable[[int, int], None]
"""Called with the number of finished lines and of all."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a file."""

    where: str
    """File and line."""
    kind: str
    """One word: line, missing, unreadable, duration, silent, text, duplicate."""
    message: str
    """What was found and what was expected."""


@dataclass(slots=True)
class Findings:
    """The result of a check."""

    lines: int = 0
    """Lines checked."""
    seconds: float = 0.0
    """Seconds of decoded audio."""
    problems: list[Problem] = field(default_factory=list)
    """Problems in the order of the lines, duplicates last."""
    notes: Counter[str] = field(default_factory=Counter)
    """Unusual but allowed: other rates, empty texts, languages without a prompt; with the number of lines."""

    def add(self, other: Findings) -> None:
        """Add the findings of other lines."""
        self.lines += other.lines
        self.seconds += other.seconds
        self.problems += other.problems
        self.notes.update(other.notes)

    def to_dict(self) -> dict[str, object]:
        """Return the findings as JSON holds them."""
        problems = [asdict(problem) for problem in self.problems]
        totals = {"lines": self.lines, "hours": round(self.seconds / 3600, 4)}
        return {**totals, "problems": problems, "notes": dict(self.notes)}


def check_manifests(
    paths: Sequence[Path], *, rate_hz: int, jobs: int, progress: Progress = lambda _done, _all: None
) -> Findings:
    """Check manifests, or indexes of shards, with `jobs` threads that decode.

    A recording with another rate than the model's `rate_hz` is noted. `progress` is called after every few hundred
    lines.

    Raises:
        ManifestError: if a manifest is missing.
    """
    findings = Findings()
    files = [LineFile(path, LINES) for path in paths]
    total = sum(1 for file in files for _ in _lines(file, Findings()))
    prints, file_ids, numbers = array("Q"), array("q"), array("q")
    with ThreadPoolExecutor(jobs) as pool:
        for file_id, file in enumerate(files):
            lines = _lines(file, findings)
            while chunk := list(islice(lines, AT_ONCE)):
                results = pool.map(lambda line, path=file.path: _check_line(line, path, rate_hz), chunk)
                for (number, _), (found, fingerprint) in zip(chunk, results, strict=True):
                    findings.add(found)
                    if fingerprint is not None:
                        prints.append(fingerprint)
                        file_ids.append(file_id)
                        numbers.append(number)
                progress(findings.lines, total)
    for row, first in _repeated(prints):
        where, earlier = (files[file_ids[one]].where(numbers[one]) for one in (row, first))
        findings.problems.append(Problem(where, "duplicate", f"same samples as {earlier}"))
    return findings


def check_texts(path: Path) -> Findings:
    """Check a table (.tsv) or JSON lines of texts.

    Raises:
        ManifestError: if the file is missing or is not a text file.
    """
    from bestow_edge.training.data.corpora.text_batches import TextFile

    findings, texts = Findings(), TextFile(path)
    for number, _, line in islice(texts.file.lines(), 0 if texts.header is None else 1, None):
        findings.lines += 1
        where = texts.file.where(number)
        try:
            row = texts.parse(line, number)
        except ManifestError as error:
            findings.problems.append(_of_line(error, where))
            continue
        for column, text in row.items():
            findings.problems += [Problem(where, "text", f"{column}: {problem}") for problem in odd_letters(text)]
    return findings


def odd_letters(text: str) -> Iterator[str]:
    """Yield the problems of a text's characters: control characters, replacement characters, another form than NFC."""
    if "\ufffd" in text:
        yield "has U+FFFD, the mark of characters that were lost; decode the source again"
    control = {letter for letter in text if unicodedata.category(letter) in {"Cc", "Co", "Cn", "Cs"}} - {"\t", "\n"}
    if control:
        codes = ", ".join(f"U+{ord(letter):04X}" for letter in sorted(control))
        yield f"has {codes}, control or unassigned characters; remove them"
    if not unicodedata.is_normalized("NFC", text):
        yield "is not in Unicode's normal form NFC: equal words would not be equal; normalise it"


def _lines(file: LineFile, findings: Findings) -> Iterator[tuple[int, str]]:
    """Yield numbered lines. A line that is not UTF-8 ends the file, because later lines cannot be trusted."""
    try:
        for number, _, line in file.lines():
            yield number, line
    except ManifestError as error:
        if not file.path.is_file():
            raise
        findings.problems.append(Problem(str(file.path), "line", str(error)))


def _check_line(line: tuple[int, str], manifest: Path, rate_hz: int) -> tuple[Findings, int | None]:
    """Check one line and its recording. Return the hash of its samples too, None if it could not be decoded."""
    number, text = line
    where, found = f"{manifest}:{number}", Findings(lines=1)
    try:
        item = parse_utterance(text, manifest, number)
    except ManifestError as error:
        found.problems.append(_of_line(error, where))
        return found, None
    for name, content in [*item.texts.items(), ("question", item.question), ("answer", item.answer)]:
        found.problems += [Problem(where, "text", f"{name} {problem}") for problem in odd_letters(content)]
    if item.source_lang not in LANGUAGES:
        found.notes[f"speech in {item.source_lang!r}, for which there is no prompt"] = 1
    if item.transcript is not None and not item.transcript.strip():
        found.notes["empty text: nothing is said"] = 1
    try:
        samples, file_rate_hz, length_s = _recording(item)
    except AudioError as error:
        kind = "unreadable" if item.path.is_file() else "missing"
        found.problems.append(Problem(where, kind, str(error)))
        return found, None
    found.seconds = item.duration_s
    if file_rate_hz != rate_hz:
        found.notes[f"recorded at {file_rate_hz} Hz, resampled to {rate_hz} Hz"] = 1
    found.problems += _of_sound(where, item, samples, length_s, windowed='"offset"' in text)
    return found, int.from_bytes(blake2b(samples.tobytes(), digest_size=8).digest(), "little")


def _recording(item: Utterance) -> tuple[Samples, int, float]:
    """Decode an utterance, even if its file is too short; see `decode` for the values."""
    file: Path | io.BytesIO = item.path
    if item.audio_bytes is not None and item.path.is_file():
        with item.path.open("rb") as shard:
            shard.seek(item.audio_bytes[0])
            file = io.BytesIO(shard.read(item.audio_bytes[1]))
    return decode(file, item, lacking_s=np.inf)


def _of_sound(where: str, item: Utterance, samples: Samples, length_s: float, *, windowed: bool) -> Iterator[Problem]:
    stated_s = item.duration_s
    if stated_s > length_s + LENGTH_S or (not windowed and stated_s < length_s - LENGTH_S):
        yield Problem(where, "duration", f"manifest says {stated_s:g} s, {item.path.name} has {length_s:.3f} s")
    level_db = 20 * np.log10(np.sqrt(np.mean(samples**2, dtype=np.float64)) + 1e-10)
    if level_db < SILENT_DB and (item.transcript or item.answer):
        yield Problem(where, "silent", f"{item.path.name} is silent ({level_db:.0f} dB) but has a text")


def _of_line(error: ManifestError, where: str) -> Problem:
    return Problem(where, "line", str(error).removeprefix(f"{where}: "))


def _repeated(prints: array[int]) -> Iterator[tuple[int, int]]:
    """Yield each row whose fingerprint occurred before, and the row of its first occurrence."""
    values = np.frombuffer(prints, dtype=np.uint64)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[inverse] != np.arange(values.size)).tolist():
        yield row, int(first[inverse[row]])
