"""`bestow-edge push`: a bundle to the Hugging Face Hub. `core.hub_bundles` checks and uploads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestow_edge import __version__
from bestow_edge.cli import options
from bestow_edge.cli.show.console import write, write_json
from bestow_edge.core.errors import ConfigError

MESSAGE = f"Bundle of bestow-edge {__version__}"


def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Only you, or your organisation, may read it.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Made if it does not exist; default: main.")
    ] = None,
    message: Annotated[str, typer.Option("--message", metavar="M", help="Subject of the commit.")] = MESSAGE,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="For the model card, as the Hub names it, such as apache-2.0."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Upload a bundle to the Hugging Face Hub as one commit, after comparing every file with its hash.

    Needs a token that may write: hf auth login, or HF_TOKEN. The repository gets a model card unless the bundle has a
    README.md, which is uploaded as it is. Files that are not the bundle's stay here.

    Examples:
      bestow-edge push my-bundle me/my-bundle --private
      bestow-edge push my-bundle me/my-bundle --license apache-2.0 --revision int8 --message "All graphs int8"
    """
    from bestow_edge.core.hub_bundles import CARD_FILE, PREFIX, upload_bundle
    from bestow_edge.evaluation.report.hub_card import hub_card

    has_card = (bundle / CARD_FILE).is_file()
    if has_card and licence is not None:
        raise ConfigError(f"{bundle / CARD_FILE}: the bundle has its own card; write the licence there, not --license")
    card = None if has_card else hub_card(bundle, repository, licence)
    done = upload_bundle(bundle, repository, card=card, private=private, revision=revision, message=message)
    name = f"{PREFIX}{repository}@{done.commit}"
    if as_json:
        write_json({"bundle": name, "commit": done.commit, "url": done.url})
    else:
        write(f"{done.url}\nthis commit by name: --bundle {name}")
