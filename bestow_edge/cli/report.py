"""`bestow-edge report`: writes a bundle's model card. The work is in `bestow_edge.evaluation.report.model_card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import say, write
from bestow_edge.core.errors import ConfigError


def report(
    bundle: options.BundleArgument = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="DIR", help="Results of `bestow-edge eval` for the card; repeatable."),
    ] = None,
    about: Annotated[
        Path | None, typer.Option("--about", metavar="FILE", help="Markdown about data and licence, for the card.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File of the card; default: stdout.")
    ] = None,
) -> None:
    """Write a bundle's model card: data, sizes, precision, parity, quality, latency, hardware, versions, licence.

    Examples:
      bestow-edge report
      bestow-edge report my-bundle
      bestow-edge report my-bundle --eval scores --about data.md --out my-bundle.md
    """
    from bestow_edge.core.files import write_atomically
    from bestow_edge.evaluation.report.model_card import model_card

    text = None if about is None else _read(about)
    directory = options.chosen_bundle(bundle)
    name, beside = (bundle or directory).resolve().name, None if out is None else out.resolve().parent
    card = model_card(directory, evaluations or [], name=name, about=text, relative_to=beside)
    if out is None:
        write(card, end="")
    else:
        write_atomically(out, card)
        say(f"written to {out}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected Markdown about data and licence")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error
