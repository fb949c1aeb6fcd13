"""The index of a source's utterances: twenty bytes for each in memory. Its line is read when the utterance is used.

A shard is read through its own index, which is a manifest whose recordings are in a tar.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.utterances import LINES, Utterance, parse_utterance
from bestow_edge.training.data.corpora.filters import Report, Sieve, main_text
from bestow_edge.training.data.corpora.index_cache import Index, cached
from bestow_edge.training.data.corpora.shards import shard_indexes
from bestow_edge.training.data.corpora.text_files import LineFile
from bestow_edge.training.data.examples import FRAMES_PER_S, ExampleMaker
from bestow_edge.training.recipe.data import SourceRecipe

CHECKED_RECORDINGS = 50  # number of recordings whose files must exist before training begins
AT_ONCE = 4096  # texts given to the tokenizer at once
ROW = [("file_ids", np.int32), ("offsets", np.int64), ("numbers", np.int32), ("durations_s", np.float32)]


class Corpus:
    """The utterances of one source."""

    def __init__(self, files: Sequence[LineFile], rows: Index) -> None:
        """Store the index.

        Args:
            files: manifests.
            rows: (utterances,) with the fields of `ROW`: position in `files`, ascending; first byte and number (from 1)
                of the line; seconds.
        """
        self.files, self.rows = files, rows
        self.file_ids, self.durations_s = rows["file_ids"], rows["durations_s"]

    def __len__(self) -> int:
        return self.rows.size

    def utterance(self, index: int) -> Utterance:
        """Read one utterance's line."""
        file_id, offset, number, _ = self.rows[index].item()
        file = self.files[file_id]
        return parse_utterance(file.read(offset, number), file.path, number)

    def where(self, index: int) -> str:
        """Return file and line of an utterance, for messages."""
        file_id, _, number, _ = self.rows[index].item()
        file: LineFile = self.files[file_id]
        return file.where(number)

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


def read_corpus(paths: Sequence[Path], sieve: Sieve, cache: Path | None = None) -> tuple[Corpus, Report]:
    """Read and filter the manifests of a source. Return the kept utterances, and the report of the dropped ones.

    Raises:
        ManifestError: if a file is missing, a line is not valid, no utterance is left, or most recordings are missing.
    """
    files = [LineFile(path, LINES) for path in paths]
    key = ("lines", sieve.source, sieve.limits, sieve.pairs, sieve.needs_transcript)
    rows, report = cached(cache, key, paths, Report(sieve.source.name), lambda report: _index(files, sieve, report))
    corpus = Corpus(files, rows)
    report.check_left()
    _check_recordings(corpus)
    return corpus, report


def _index(files: Sequence[LineFile], sieve: Sieve, report: Report) -> Index:
    """Read all lines and return the rows of the kept ones, with the fields of `ROW`."""
    hashes: array[int] = array("Q")
    rows = np.fromiter(_kept(files, sieve, report, hashes), dtype=ROW)
    if hashes:
        first = np.zeros(rows.size, dtype=np.bool_)
        first[np.unique(np.frombuffer(hashes, dtype=np.uint64), return_index=True)[1]] = True
        _count(rows["durations_s"], first, f"with a {sieve.limits.dedup} that occurred before", report)
        rows = rows[first]
    return rows


def _kept(
    files: Sequence[LineFile], sieve: Sieve, report: Report, hashes: array[int]
) -> Iterator[tuple[int, int, int, float]]:
    """Yield the rows of the utterances that the sieve keeps, and append their hashes if repeated ones are dropped."""
    for file_id, file in enumerate(files):
        for number, offset, line in file.lines():
            item = parse_utterance(line, file.path, number)
            report.lines += 1
            report.seconds += item.duration_s
            if reason := sieve.reason(item):
                report.drop(reason, item.duration_s)
                continue
            if sieve.limits.dedup != "none":
                hashes.append(_fingerprint(item, sieve.limits.dedup))
            yield file_id, offset, number, item.duration_s


def drop_by_tokens(
    corpus: Corpus,
    report: Report,
    maker: ExampleMaker,
    *,
    ctc_speed: float,
    max_per_s: float,
    cache: Path | None = None,
) -> tuple[Corpus, Report]:
    """Drop utterances with too many tokens for their length. Return the others, and the report of all dropped ones.

    Args:
        corpus: the utterances.
        report: of the utterances dropped before.
        maker: holds the encoder's config and both tokenizers.
        ctc_speed: drop utterances that CTC cannot align (labels and repeats exceed the encoder's steps) when they are
            played faster by this factor; 0 = drop none.
        max_per_s: most tokens of the transcript a second; 0 = any number.
        cache: directory of indexes.

    Raises:
        ManifestError: if no utterance is left.
    """
    if not ctc_speed and not max_per_s:
        return corpus, report
    rows = sha256(corpus.rows.tobytes()).hexdigest()
    tokenizers = [sha256(one.to_str().encode()).hexdigest() for one in (maker.tokenizer, maker.labels)]
    key = ("tokens", report, rows, tokenizers, maker.config.encoder.num_steps(1000), ctc_speed, max_per_s)

    def build(report: Report) -> Index:
        fits, slow = _fitting(corpus, maker, ctc_speed, max_per_s)
        _count(corpus.durations_s, fits, "too short for their transcript, for CTC", report)
        _count(corpus.durations_s, slow | ~fits, f"with more than {max_per_s:g} tokens a second", report)
        return fits & slow

    kept, report = cached(cache, key, [file.path for file in corpus.files], report, build)
    report.check_left()
    return Corpus(corpus.files, corpus.rows[kept]), report


def _fitting(
    corpus: Corpus, maker: ExampleMaker, ctc_speed: float, max_per_s: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return two masks, (utterances,): long enough for CTC, and within the limit of tokens a second."""
    fits, slow = np.ones(len(corpus), dtype=np.bool_), np.ones(len(corpus), dtype=np.bool_)
    for start in range(0, len(corpus), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(corpus)))
        texts = [corpus.utterance(row).transcript or "" for row in rows]
        seconds = corpus.durations_s[rows.start : rows.stop].tolist()
        if ctc_speed:
            encoded = maker.labels.encode_batch(texts, add_special_tokens=False)
            steps = [maker.config.encoder.num_steps(int(one / ctc_speed * FRAMES_PER_S)) for one in seconds]
            fits[rows] = [ctc_steps(one.ids) <= most for one, most in zip(encoded, steps, strict=True)]
        if max_per_s:
            encoded = maker.tokenizer.encode_batch(texts, add_special_tokens=False)
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


def _check_recordings(corpus: Corpus) -> None:
    """Check that the files of some recordings exist, so that a wrong path does not show up during training."""
    rows = np.unique(np.linspace(0, len(corpus) - 1, CHECKED_RECORDINGS, dtype=np.int64))
    missing = [row for row in rows if not corpus.utterance(row).path.is_file()]
    if 2 * len(missing) > len(rows):
        first = f"{corpus.where(missing[0])}: no such audio file: {corpus.utterance(missing[0]).path}"
        found = f"{len(missing)} of {len(rows)} recordings looked at are missing"
        raise ManifestError(f"{first}; {found}; paths are relative to the manifest's folder")
