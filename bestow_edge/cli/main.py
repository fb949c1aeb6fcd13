"""The program `bestow-edge`: collects the commands and prints each error as one sentence with an exit code.

Exit codes: 0 success, 1 a failed check (verify, doctor, replay), 2 wrong use, an error, or problems in data (data
check), 130 Ctrl-C, 143 SIGTERM: both remove what is half-written, and training saves first.
Commands import heavy modules when they run, so that `--help` is fast.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, cast

import typer

from bestow_edge import __version__
from bestow_edge.cli import data, engines, options
from bestow_edge.cli.bench import bench
from bestow_edge.cli.doctor import devices, doctor
from bestow_edge.cli.evaluate import evaluate
from bestow_edge.cli.export import export
from bestow_edge.cli.init import init
from bestow_edge.cli.inspect import inspect
from bestow_edge.cli.mic import mic
from bestow_edge.cli.pull import pull
from bestow_edge.cli.push import push
from bestow_edge.cli.replay import replay
from bestow_edge.cli.report import report
from bestow_edge.cli.run import run
from bestow_edge.cli.serve import serve
from bestow_edge.cli.show.console import logs_on_stderr, say, say_error, use_utf8, write
from bestow_edge.cli.train import train
from bestow_edge.cli.verify import verify
from bestow_edge.core.errors import BestowEdgeError

USAGE, INTERRUPTED, TERMINATED = 2, 130, 143
UsageError = cast(
    type[Exception], typer.BadParameter.__mro__[2]
)  # of click, or of typer's copy of click; typer does not export it

app = typer.Typer(
    name="bestow-edge",
    rich_markup_mode="rich",  # keeps the lines of docstrings
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run, export and train BESTOW streaming speech models: speech in, text out, without torch at run time.",
)
for command in (
    run,
    mic,
    serve,
    replay,
    devices,
    doctor,
    verify,
    inspect,
    bench,
    init,
    train,
    export,
    report,
    pull,
    push,
):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(data.app)
app.add_typer(engines.app)


def _version(value: bool) -> None:
    if value:
        write(f"bestow-edge {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors alone.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show details for finding an error.")] = False,
) -> None:
    """Print the help if no command is given."""
    if quiet or verbose:
        logging.getLogger("bestow_edge").setLevel(logging.DEBUG if verbose else logging.WARNING)
    options.help_without_command(context)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: command-line arguments without the program's name; None = those of `sys.argv`.
    """
    use_utf8()
    with logs_on_stderr(), _terminated_as_interrupted() as terminated:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    if code == INTERRUPTED and terminated:
        code = TERMINATED
    sys.exit(code)


@contextmanager
def _terminated_as_interrupted() -> Iterator[list[int]]:
    """Let SIGTERM, as of systemd, timeout or kubectl, end a command as Ctrl-C does: it removes what is half-written.

    Yields a list that then holds the signal's number.
    """
    received: list[int] = []

    def stop(signum: int, _frame: object) -> None:
        received.append(signum)
        say("stopped by SIGTERM")
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received  # Python handles signals in the main thread alone
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str]) -> int:
    try:
        return int(app(arguments, prog_name="bestow-edge", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        say("stopped")
        return INTERRUPTED
    except UsageError as error:
        say_error(_usage(error))
        return USAGE
    except (BestowEdgeError, OSError) as error:  # OSError: such as no permission or a full disk
        say_error(error)
        return USAGE


def _usage(error: Exception) -> Exception:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bestow-edge"
    message = getattr(error, "format_message", error.__str__)().rstrip(". ")
    return ValueError(f"{message}; see {command} --help")


if __name__ == "__main__":  # accelerate launch -m bestow_edge.cli.main train RECIPE
    main()
