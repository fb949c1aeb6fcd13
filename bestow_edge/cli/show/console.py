"""Output of all commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bestow_edge.core.errors import MissingExtraError

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
STDERR = 2  # the file descriptor
PIPE_COLUMNS = 200  # width of tables in a file or a pipe, wide enough for unwrapped rows

err = Console(stderr=True, highlight=False, markup=False)
"""Status lines, progress bars and messages."""


def plain(text: str) -> str:
    r"""Return a text whose control characters are written out, such as \x1b: file names and texts may hold any.

    Marks that turn the direction of writing are written out too. Line ends and tabs stay.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(message: str) -> None:
    """Print one line on stderr, above any progress bar."""
    err.print(plain(message), soft_wrap=True)


def say_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    say(f"error: {' '.join(str(error).split())}")


def say_warning(message: str) -> None:
    """Print a warning as one line on stderr, yellow on a terminal."""
    err.print(f"warning: {plain(message)}", style="yellow", soft_wrap=True)


def write(text: str, end: str = "\n") -> None:
    """Print a result on stdout and flush it; on a terminal, control characters are written out."""
    typer.echo((plain(text) if sys.stdout.isatty() else text) + end, nl=False)


def write_json(value: object) -> None:
    """Print a result as one line of JSON on stdout."""
    write(to_json(value))


def to_json(value: object) -> str:
    """Return a result as one line of JSON, control characters escaped."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


class PlainTable(Table):
    """A table whose cells are shown as they are: brackets in a path or a text are no markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:  # Any: those of rich
        """Add a row."""
        super().add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def new_table(title: str, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns named in `numbers` are right-aligned."""
    table = PlainTable(title=Text(plain(title)), title_justify="left")
    for column in columns:
        table.add_column(Text(plain(column)), justify="right" if column in numbers else "left", overflow="fold")
    return table


def weights_table(weights: Mapping[str, int]) -> Table:
    """Return a table of the number of weights of each part and of all."""
    table = new_table("Weights", "part", "number", numbers=("number",))
    for part, number in (*weights.items(), ("all", sum(weights.values()))):
        table.add_row(part, f"{number:,}")
    return table


def write_tables(*tables: Table) -> None:
    """Print tables on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    for table in tables:
        console.print(table)


def megabytes(size: int) -> str:
    """Return a number of bytes in MB (1e6 bytes)."""
    return f"{size / 1e6:.2f} MB"


def use_utf8() -> None:
    """Make both streams UTF-8, so that every text and every file name can be printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def logs_on_stderr() -> Iterator[None]:
    """Show this package's log messages on stderr during a command."""
    logger = logging.getLogger("bestow_edge")
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Drop what C libraries such as PortAudio and ALSA print on stderr; Python's messages still go there."""
    try:
        shown = sys.stderr.fileno() == STDERR
    except (OSError, ValueError):  # replaced by an object without a file
        shown = False
    if not shown:
        yield
        return
    before, kept = sys.stderr, os.dup(STDERR)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - no path
        os.dup2(nothing.fileno(), STDERR)
    sys.stderr = open(kept, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115 - ditto
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        sys.stderr.close()
        sys.stderr = before


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import of a third-party package into an error that names the extra.

    Raises:
        MissingExtraError: a package of the extra is not installed.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module in {"", "bestow_edge"}:
            raise
        raise MissingExtraError(module, extra) from error


@contextmanager
def shown_steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step: with a clock on a terminal, as a line elsewhere."""
    if not err.is_terminal:
        yield say
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda description: progress.update(task, description=plain(description))


@contextmanager
def shown_count(what: str, *, transient: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that moves a bar on a terminal; a transient bar vanishes at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=transient, disable=not err.is_terminal) as progress:
        task = progress.add_task(plain(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        say(prefix + record.getMessage())
