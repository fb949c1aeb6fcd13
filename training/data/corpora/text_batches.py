"""Batches of texts without speech: plain text, translations, and answers about a passage in the prompt.

A text file is a table with a header (`.tsv`) or JSON lines (`.jsonl`), gzipped or not. A column is that of a table,
a field of the JSON object, or a language code, which stands for the text in that language as in a speech manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np

from bestow_edge.core.errors import ManifestError, PromptError
from bestow_edge.core.prompts import Written, WrittenPassage, WrittenText, parse_pair, prompt_text
from bestow_edge.core.utterances import parse_object, texts_by_language
from bestow_edge.training.data.corpora.batch_plan import Plan
from bestow_edge.training.data.corpora.filters import Report
from bestow_edge.training.data.corpora.index import AT_ONCE
from bestow_edge.training.data.corpora.index_cache import cached
from bestow_edge.training.data.corpora.text_files import LineFile
from bestow_edge.training.data.corpora.words import plain
from bestow_edge.training.data.examples import Example, ExampleMaker
from bestow_edge.training.data.tokens import answer_ids, prompt_ids
from bestow_edge.training.recipe.data import SourceRecipe

ROW = [
    ("file_ids", np.int64),
    ("offsets", np.int64),
    ("numbers", np.int64),
    ("task_ids", np.int64),
    ("lengths", np.float32),
]
TEXTS = "a table (.tsv) or JSON lines (.jsonl) of texts"


class TextFile:
    """One file of texts."""

    def __init__(self, path: Path) -> None:
        """Read a table's header.

        Raises:
            ManifestError: if the file is missing, empty, or neither a table nor JSON lines.
        """
        self.path, self.file = path, LineFile(path, TEXTS)
        kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if kind not in {".tsv", ".jsonl", ".json"}:
            raise ManifestError(f"{path}: suffix {kind or 'missing'}; expected {TEXTS}, .gz or not")
        self.header: list[str] | None = None
        if kind == ".tsv":
            first = next(self.file.lines(), None)
            if first is None:
                raise ManifestError(f"{path}: no lines; expected a header and rows")
            self.header = first[2].split("\t")

    def rows(self) -> Iterator[tuple[int, int, dict[str, str]]]:
        """Yield number, first byte and texts of each line.

        Raises:
            ManifestError: if a line is not valid.
        """
        for number, offset, line in islice(self.file.lines(), 0 if self.header is None else 1, None):
            yield number, offset, self.parse(line, number)

    def row(self, offset: int, number: int) -> dict[str, str]:
        """Read the texts of one line."""
        return self.parse(self.file.read(offset, number), number)

    def parse(self, line: str, number: int) -> dict[str, str]:
        """Return the texts of a line by column."""
        where = self.file.where(number)
        if self.header is None:
            entry = parse_object(line, where)
            fields = {key: value for key, value in entry.items() if isinstance(value, str)}
            source = entry.get("source_lang") or entry.get("lang")
            return fields | (texts_by_language(entry, str(source), where) if source and "text" in entry else {})
        cells = line.split("\t")
        if len(cells) != len(self.header):
            raise ManifestError(f"{where}: {len(cells)} columns; expected {len(self.header)} as in the header")
        return dict(zip(self.header, cells, strict=True))

    def cell(self, row: dict[str, str], column: str, number: int) -> str:
        """Return a text of a row, without white space around it.

        Raises:
            ManifestError: if there is no such column.
        """
        if column not in row:
            raise ManifestError(f"{self.file.where(number)}: no column {column}; found {', '.join(row)}")
        return row[column].strip()


@dataclass(frozen=True, slots=True)
class _Task:
    """What a row is used for: plain text of a column, a translation, or an answer."""

    target: str
    """Column of the text that is learned."""
    source: str = ""
    """Column of the prompt's text; empty = plain text."""
    question: str = ""
    """Column of the question about it. The language is in column lang."""
    as_spoken: bool = False
    """Whether the prompt's text is written like a transcript."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(filter(None, (self.target, self.source, self.question, "lang" if self.question else "")))

    def asked(self, cells: dict[str, str]) -> Written | None:
        """Return the request for the text of a row; None = plain text.

        Raises:
            PromptError: if the row names an unknown language.
        """
        if not self.source:
            return None
        text = cells[self.source]
        if self.as_spoken:
            text = plain(text) or ""
        if self.question:
            return WrittenPassage(cells["lang"], cells[self.question], text)
        return WrittenText(self.source, self.target, text)

    def is_unspeakable(self, cells: dict[str, str]) -> bool:
        """Return whether the text should be written like a transcript, but has digits or symbols."""
        return self.as_spoken and not plain(cells[self.source])


class TextCorpus:
    """The texts of one source. A row occurs once for each task."""

    def __init__(self, source: SourceRecipe, data_dir: Path) -> None:
        """Open the files.

        Raises:
            ManifestError: if a file is missing or is not a text file.
        """
        self.source = source
        self.files = [TextFile(data_dir / name) for name in source.texts]
        spoken = source.as_spoken
        pairs = [_Task(pair.target, pair.source, as_spoken=spoken) for pair in map(parse_pair, source.pairs)]
        answers = [_Task("answer", "passage", "question", as_spoken=spoken)] if "answer" in source.tasks else []
        self.tasks = [*map(_Task, source.columns), *pairs, *answers]
        self.report = Report(source.name)
        self.rows = np.zeros(0, dtype=ROW)

    def texts(self, most: int) -> Iterator[str]:
        """Yield the texts of the first `most` rows of each file, for a tokenizer.

        Raises:
            ManifestError: if a line is not valid.
        """
        columns = sorted(set().union(*(task.columns for task in self.tasks)))
        for file in self.files:
            for number, _, row in islice(file.rows(), most):
                yield from (file.cell(row, column, number) for column in columns)

    def measure(self, maker: ExampleMaker, cache: Path | None) -> None:
        """Index all rows and count their tokens.

        Raises:
            ManifestError: if a line is not valid or names an unknown language, or no row is left.
        """
        tokenizer = sha256(maker.tokenizer.to_str().encode()).hexdigest()
        key = ("texts", self.source, tokenizer, maker.config.chat)
        paths = [file.path for file in self.files]
        self.rows, self.report = cached(
            cache,
            key,
            paths,
            Report(self.source.name),
            lambda report: np.fromiter(self._kept(maker, report), dtype=ROW),
        )
        self.report.check_left()

    def _kept(self, maker: ExampleMaker, report: Report) -> Iterator[tuple[int, int, int, int, int]]:
        for file_id, file in enumerate(self.files):
            rows = file.rows()
            while chunk := list(islice(rows, AT_ONCE)):
                for task_id, task in enumerate(self.tasks):
                    for offset, number, length in self._measure(maker, file, chunk, task, report):
                        yield file_id, offset, number, task_id, length

    def _measure(
        self,
        maker: ExampleMaker,
        file: TextFile,
        chunk: Sequence[tuple[int, int, dict[str, str]]],
        task: _Task,
        report: Report,
    ) -> Iterator[tuple[int, int, int]]:
        """Yield first byte, line number and number of tokens of the rows of a chunk that a task keeps."""
        found, prompts, answers = [], [], []
        for number, offset, row in chunk:
            report.lines += 1
            cells = {column: file.cell(row, column, number) for column in task.columns}
            if not all(cells.values()):
                report.drop("that are empty")
                continue
            if task.is_unspeakable(cells):
                report.drop("with more than words")
                continue
            try:
                asked = task.asked(cells)
            except PromptError as error:
                raise ManifestError(f"{file.file.where(number)}: {error}") from error
            found.append((offset, number))
            prompts.append(prompt_text(asked, maker.config.chat) if asked else "")
            answers.append(cells[task.target])
        encode = maker.tokenizer.encode_batch
        encoded = (encode(texts, add_special_tokens=False) for texts in (prompts, answers))
        for (offset, number), prompt, answer in zip(found, *encoded, strict=True):
            length = max(1, len(prompt.ids)) + len(answer.ids)
            if length > self.source.max_tokens and task.source:
                report.drop(f"longer than {self.source.max_tokens} tokens")
            else:
                yield offset, number, min(length, self.source.max_tokens)


class TextBatches:
    """The batches of one source of texts in one stage."""

    def __init__(self, corpus: TextCorpus, maker: ExampleMaker, plan: Plan) -> None:
        """Store the parts that make batches. The corpus must be measured."""
        self.corpus, self.maker, self.plan = corpus, maker, plan
        begin = maker.config.llm.get("bos_token_id")
        self.begin_id = begin if isinstance(begin, int) else maker.end_id  # for models without a begin token

    def examples(self, group: int, number: int, seed: Sequence[int], done: float) -> list[Example]:  # noqa: ARG002
        """Return the rows of a batch, as `mixture.Batches` describes. The seed draws the part of a long text."""
        rng = np.random.default_rng(seed)
        return [self._example(int(row), rng) for row in self.plan.batch(group, number)]

    def _example(self, row: int, rng: np.random.Generator) -> Example:
        corpus, tokenizer = self.corpus, self.maker.tokenizer
        file_id, offset, number, task_id, _ = corpus.rows[row].item()
        file, task = corpus.files[file_id], corpus.tasks[task_id]
        texts = file.row(offset, number)
        cells = {column: file.cell(texts, column, number) for column in task.columns}
        answer = answer_ids(tokenizer, cells[task.target])
        if asked := task.asked(cells):
            return self.maker.build_text(prompt_ids(tokenizer, asked, self.maker.config.chat), answer)
        most = corpus.source.max_tokens - 1
        start = int(rng.integers(len(answer) - most + 1)) if len(answer) > most else 0
        return self.maker.build_text([self.begin_id], answer[start : start + most])
