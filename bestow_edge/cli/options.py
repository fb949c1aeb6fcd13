"""Arguments that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestow_edge.core.config import PolicyName
from bestow_edge.core.errors import PromptError
from bestow_edge.core.hotwords import DEFAULT_WEIGHT, Hotword, read_hotwords

if TYPE_CHECKING:
    from bestow_edge.core.request import Request

logger = logging.getLogger(__name__)

K_HELP = "wait-k: blocks of L steps before the first token"
L_HELP = "Encoder steps (80 ms) in a block"
THRESHOLD_HELP = "align-att: steps (80 ms) between the attention's peak and the newest step"
DELAY_HELP = "every-step: steps (80 ms) from the end of a word to its text, one of those of the training"
BLANK_HELP = "every-step: added to the log-probability of BLANK; below 0 text comes sooner"
LOOKAHEAD_HELP = "Future steps (80 ms) that the encoder sees"

Lang = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="SOURCE-TARGET,...",
        help="Language pairs: en-en transcribes, en-de translates, en-en,en-de does both. auto and auto-en detect the "
        "language of the speech, if the model can. With --ask, one language such as en gives only answers. "
        "Default: a transcript, by auto or of English if the bundle can; with --ask: en.",
    ),
]
Ask = Annotated[
    list[str] | None, typer.Option("--ask", metavar="QUESTION", help="Question about the speech; repeatable.")
]
Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="DIR", help="Bundle, hf:OWNER/NAME[@REVISION], or an embedded one: people, demo."),
]
BundleArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="BUNDLE", help="Directory of a bundle, hf:OWNER/NAME[@REVISION], or an embedded one: people, demo."
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="cpu, a GPU such as cuda:0, or rtx:0 or tensorrt:0 for engines."),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads", min=0, metavar="N", help="CPU threads; 0: 1 for a bundle below 64 MB, else one for each core."
    ),
]
Policy = Annotated[PolicyName | None, typer.Option("--policy", help="When to write text; default: the bundle's.")]
K = Annotated[int | None, typer.Option("--k", min=1, metavar="N", help=f"{K_HELP}; default: the bundle's.")]
L = Annotated[int | None, typer.Option("--l", min=1, metavar="N", help=f"{L_HELP}; default: the bundle's.")]
Threshold = Annotated[
    int | None, typer.Option("--threshold", min=0, metavar="N", help=f"{THRESHOLD_HELP}; default: the bundle's.")
]
Delay = Annotated[int | None, typer.Option("--delay", min=0, metavar="N", help=f"{DELAY_HELP}; default: the bundle's.")]
BlankBias = Annotated[
    float | None, typer.Option("--blank-bias", metavar="X", help=f"{BLANK_HELP}; default: the bundle's.")
]
Lookahead = Annotated[
    int | None, typer.Option("--lookahead", min=0, metavar="N", help=f"{LOOKAHEAD_HELP}; default: the bundle's.")
]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency",
        metavar="TIME",
        help="Longest delay of the first token, such as 2.5s or 800ms; chooses K, L and look-ahead of wait-k.",
    ),
]
Hotwords = Annotated[
    str | None,
    typer.Option(
        "--hotwords",
        metavar="WORD,...|FILE.txt",
        help="Names and terms to prefer to words that sound alike; in the file, one on each line. "
        "`Heidelberg :4.5` has a weight of its own.",
    ),
]
HotwordWeight = Annotated[
    float | None,
    typer.Option(
        "--hotword-weight", metavar="X", help=f"Bonus of a hotword's token, nats; default: {DEFAULT_WEIGHT:g}."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Record audio, decisions and times for `bestow-edge replay`."),
]


def chosen_bundle(bundle: Path | None, request: Request | None = None) -> Path:
    """Return the directory of the bundle that an argument names, or of the embedded one for a request.

    With a request, a note names an embedded bundle that was not asked for.

    Raises:
        HubError, BundleError, MissingExtraError: as `find_bundle` does.
    """
    from bestow_edge.core.embedded import describe, find_bundle

    directory = find_bundle(bundle, request)
    if bundle is None and request is not None:
        logger.info("%s", describe(directory))
    return directory


def chosen_hotwords(given: str | None, weight: float | None) -> tuple[Hotword, ...]:
    """Return the hotwords of `--hotwords` and `--hotword-weight`.

    Raises:
        PromptError: the words are wrong, or there is a weight without words.
    """
    if given is None and weight is not None:
        raise PromptError(f"--hotword-weight {weight:g}: expected --hotwords too; give both or none")
    return () if given is None else read_hotwords(given, DEFAULT_WEIGHT if weight is None else weight)


def help_without_command(context: typer.Context) -> None:
    """Print the help of a group of commands if no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
