"""Output of all commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.table import Table

from bestow_edge.core.errors import MissingExtraError

PIPE_COLUMNS = 200  # width of tables in a file or a pipe, wide enough for unwrapped rows

err = Console(stderr=True, highlight=False, markup=False)
"""Status lines, progress bars and messages."""


def say(message: str) -> None:
    """Print one line on stderr, above any progress bar."""
    err.print(message, soft_wrap=True)


def say_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    say(f"error: {' '.join(str(error).split())}")


def say_warning(message: str) -> None:
    """Print a warning as one line on stderr, yellow on a terminal."""
    err.print(f"warning: {message}", style="yellow", soft_wrap=True)


def write(text: str, end: str = "\n") -> None:
    """Print a result on stdout and flush it."""
    typer.echo(text + end, nl=False)


def write_json(value: object) -> None:
    """Print a result as one line of JSON on stdout."""
    write(to_json(value))


def to_json(value: object) -> str:
    """Return a result as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


def new_table(title: str, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns named in `numbers` are right-aligned."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
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

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda description: progress.update(task, description=description)


@contextmanager
def shown_count(what: str, *, transient: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that moves a bar on a terminal; a transient bar vanishes at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=transient, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        say(prefix + record.getMessage())
