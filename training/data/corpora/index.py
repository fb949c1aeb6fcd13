"""The index of a source's utterances: twenty bytes for each in memory. Its line is read when the utterance is used.

A shard is read through its own index, which is a manifest whose recordings are in a tar.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.utterances import LINES, Utterance, parse_utterance
from bestow_edge.training.data.corpora.filters import REPEATED, TOO_SHORT_FOR_CTC, Report, Sieve, main_text
from bestow_edge.training.data.corpora.index_cache import Columns, IndexCache
from bestow_edge.training.data.corpora.shards import shard_indexes
from bestow_edge.training.data.corpora.text_files import LineFile
from bestow_edge.training.data.examples import FRAMES_PER_S
from bestow_edge.training.recipe.data import SourceRecipe

CHECKED_RECORDINGS = 50  # number of recordings whose files must exist before training begins
AT_ONCE = 4096  # texts given to the tokenizer at once
UNCACHED = IndexCache(None)


class Corpus:
    """The utterances of one source."""

    def __init__(
        self,
        files: Sequence[LineFile],
        file_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int32],
        durations_s: npt.NDArray[np.float32],
    ) -> None:
        """Store the columns.

        Args:
            files: manifests.
            file_ids: (utterances,) position in `files`, ascending.
            offsets: (utterances,) first byte of the line.
            numbers: (utterances,) number of the line, from 1.
            durations_s: (utterances,) seconds.
        """
        self.files = files
        self.file_ids, self.offsets, self.numbers, self.durations_s = file_ids, offsets, numbers, durations_s

    def __len__(self) -> int:
        return self.offsets.size

    def utterance(self, index: int) -> Utterance:
        """Read one utterance's line."""
        file, number = self.files[self.file_ids[index]], int(self.numbers[index])
        return parse_utterance(file.read(int(self.offsets[index]), number), file.path, number)

    def where(self, index: int) -> str:
        """Return file and line of an utterance, for messages."""
        file: LineFile = self.files[self.file_ids[index]]
        return file.where(int(self.numbers[index]))

    def take(self, kept: npt.NDArray[np.bool_]) -> Corpus:
        """Return the utterances where `kept`, (utterances,), is true."""
        columns = (self.file_ids, self.offsets, self.numbers, self.durations_s)
        return Corpus(self.files, *(column[kept] for column in columns))  # type: ignore[arg-type]  # of several dtypes

    def questioned(self, most: int) -> set[str]:
        """Return the languages of speech with a question, among up to `most` utterances."""
        return {item.source_lang for item in self._spread(most) if item.question}

    def _spread(self, most: int) -> Iterator[Utterance]:
        """Yield up to `most` utterances, spread evenly."""
        for index in np.linspace(0, len(self) - 1, min(most, len(self)), dtype=np.int64):
            yield self.utterance(index)

    def transcripts(self, most: int) -> Iterator[str]:
        """Yield the transcripts of up to `most` utterances, spread evenly."""
        yield from (item.transcript for item in self._spread(most) if item.transcript)

    def texts(self, most: int, vocabulary: Collection[str] = ()) -> Iterator[str]:
        """Yield the texts of up to `most` utterances, spread evenly; only those within a vocabulary."""
        for item in self._spread(most):
            if vocabulary and not set((item.transcript or "").split()) <= set(vocabulary):
                continue
            yield from item.texts.values()
            yield from filter(None, (item.question, item.answer))


def manifest_paths(source: SourceRecipe, data_dir: Path) -> list[Path]:
    """Return the manifests of a source, the indexes of its shards among them.

    Raises:
        ManifestError: if a directory holds no shards.
    """
    paths = [data_dir / name for name in source.manifests]
    for name in source.shards:
        paths += shard_indexes(data_dir / name)
    return paths


def read_corpus(paths: Sequence[Path], sieve: Sieve, cache: IndexCache = UNCACHED) -> tuple[Corpus, Report]:
    """Read and filter the manifests of a source.

    Args:
        paths: the manifests.
        sieve: decides which utterances are kept.
        cache: stores indexes.

    Returns:
        The kept utterances, and the report of the dropped ones.

    Raises:
        ManifestError: if a file is missing, a line is not valid, no utterance is left, or most recordings are missing.
    """
    files = [LineFile(path, LINES) for path in paths]
    key = ("lines", sieve.source, sieve.limits, sieve.pairs, sieve.needs_transcript)
    columns, report = cache.get(key, paths, Report(sieve.source.name), lambda report: _columns(files, sieve, report))
    corpus = Corpus(files, **columns)
    _check_some(corpus, report)
    _check_recordings(corpus)
    return corpus, report


def _columns(files: Sequence[LineFile], sieve: Sieve, report: Report) -> Columns:
    """Read all lines and return the columns of the kept ones."""
    file_ids, offsets, numbers, seconds, hashes = array("i"), array("q"), array("i"), array("f"), array("Q")
    for file_id, file in enumerate(files):
        for number, offset, line in file.lines():
            item = parse_utterance(line, file.path, number)
            report.lines += 1
            report.seconds += item.duration_s
            if reason := sieve.reason(item):
                report.drop(reason, item.duration_s)
                continue
            file_ids.append(file_id)
            offsets.append(offset)
            numbers.append(number)
            seconds.append(item.duration_s)
            if sieve.limits.dedup != "none":
                hashes.append(_fingerprint(item, sieve.limits.dedup))
    columns: dict[str, npt.NDArray[Any]] = {
        "file_ids": np.frombuffer(file_ids, dtype=np.int32),
        "offsets": np.frombuffer(offsets, dtype=np.int64),
        "numbers": np.frombuffer(numbers, dtype=np.int32),
        "durations_s": np.frombuffer(seconds, dtype=np.float32),
    }
    if hashes:
        first = np.zeros(len(hashes), dtype=np.bool_)
        first[np.unique(np.frombuffer(hashes, dtype=np.uint64), return_index=True)[1]] = True
        _count(columns["durations_s"], first, REPEATED[sieve.limits.dedup], report)
        columns = {name: column[first] for name, column in columns.items()}
    return columns


def drop_by_tokens(
    corpus: Corpus,
    report: Report,
    tokenizer: Tokenizer,
    labels: Tokenizer,
    *,
    num_steps: Callable[[int], int],
    ctc_speed: float,
    max_per_s: float,
    cache: IndexCache = UNCACHED,
) -> tuple[Corpus, Report]:
    """Drop utterances with too many tokens for their length.

    Args:
        corpus: the utterances.
        report: of the utterances dropped before.
        tokenizer: the model's, for `max_per_s`.
        labels: tokenizer of CTC's labels.
        num_steps: of the encoder, from mel frames.
        ctc_speed: drop utterances that CTC cannot align (labels and repeats exceed the encoder's steps) when they are
            played faster by this factor; 0 = drop none.
        max_per_s: most tokens of the transcript a second; 0 = any number.
        cache: stores indexes.

    Returns:
        The utterances that are left, and the report of all dropped ones.

    Raises:
        ManifestError: if no utterance is left.
    """
    if not ctc_speed and not max_per_s:
        return corpus, report
    rows = sha256(b"".join(column.tobytes() for column in (corpus.file_ids, corpus.numbers))).hexdigest()
    tokenizers = [sha256(one.to_str().encode()).hexdigest() for one in (tokenizer, labels)]
    key = ("tokens", report, rows, tokenizers, num_steps(1000), ctc_speed, max_per_s)
    paths = [file.path for file in corpus.files]

    def build(report: Report) -> Columns:
        fits, slow = _fitting(corpus, tokenizer, labels, num_steps, ctc_speed, max_per_s)
        _count(corpus.durations_s, fits, TOO_SHORT_FOR_CTC, report)
        _count(corpus.durations_s, slow | ~fits, f"with more than {max_per_s:g} tokens a second", report)
        return {"kept": fits & slow}

    columns, report = cache.get(key, paths, report, build)
    left = corpus.take(columns["kept"])
    _check_some(left, report)
    return left, report


def _fitting(
    corpus: Corpus,
    tokenizer: Tokenizer,
    labels: Tokenizer,
    num_steps: Callable[[int], int],
    ctc_speed: float,
    max_per_s: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return two masks, (utterances,): long enough for CTC, and within the limit of tokens a second."""
    fits, slow = np.ones(len(corpus), dtype=np.bool_), np.ones(len(corpus), dtype=np.bool_)
    for start in range(0, len(corpus), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(corpus)))
        texts = [corpus.utterance(row).transcript or "" for row in rows]
        seconds = corpus.durations_s[rows.start : rows.stop].tolist()
        if ctc_speed:
            encoded = labels.encode_batch(texts, add_special_tokens=False)
            steps = [num_steps(int(one / ctc_speed * FRAMES_PER_S)) for one in seconds]
            fits[rows] = [ctc_steps(one.ids) <= most for one, most in zip(encoded, steps, strict=True)]
        if max_per_s:
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            slow[rows] = [len(one.ids) <= max_per_s * length for one, length in zip(encoded, seconds, strict=True)]
    return fits, slow


def ctc_steps(ids: Sequence[int]) -> int:
    """Return the length of CTC's shortest path: one step for each label, and a blank between equal ones."""
    return len(ids) + sum(one == following for one, following in pairwise(ids))


def _count(durations_s: npt.NDArray[np.float32], kept: npt.NDArray[np.bool_], reason: str, report: Report) -> None:
    if not kept.all():
        report.drop(reason, float(durations_s[~kept].sum(dtype=np.float64)), int((~kept).sum()))


def _fingerprint(item: Utterance, kind: str) -> int:
    key = main_text(item) if kind == "text" else f"{item.path}\0{item.offset_s}\0{item.audio_bytes}"
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def _check_some(corpus: Corpus, report: Report) -> None:
    if not len(corpus):
        raise ManifestError(f"{report.sentence()}; nothing is left to train on")


def _check_recordings(corpus: Corpus) -> None:
    """Check that the files of some recordings exist, so that a wrong path does not show up during training."""
    rows = np.unique(np.linspace(0, len(corpus) - 1, CHECKED_RECORDINGS, dtype=np.int64))
    missing = [row for row in rows if not corpus.utterance(row).path.is_file()]
    if 2 * len(missing) > len(rows):
        first = f"{corpus.where(missing[0])}: no such audio file: {corpus.utterance(missing[0]).path}"
        found = f"{len(missing)} of {len(rows)} recordings looked at are missing"
        raise ManifestError(f"{first}; {found}; paths are relative to the manifest's folder")
