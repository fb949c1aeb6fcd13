"""`bestow-edge pull`: a bundle from the Hugging Face Hub. `core.hub_bundles` downloads and checks it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import megabytes, write, write_json


def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the Hub that is a bundle.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="R", help="Branch, tag or commit; default: the main branch.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Copy the bundle there; default: the Hub's cache alone.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a directory that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Download a bundle from the Hugging Face Hub and compare every file with its hash.

    Files that are complete in the Hub's cache are not downloaded again.
    Other commands take the bundle by the name that is printed, or from DIR.

    Examples:
      bestow-edge pull me/my-bundle
      bestow-edge pull me/my-bundle --revision v2 --out my-bundle
    """
    from bestow_edge.core.files import atomic_directory, check_free
    from bestow_edge.core.hub_bundles import PREFIX, find_bundle

    if out is not None:
        check_free(out, replace=force)
    found = find_bundle(repository, revision)
    if out is not None:
        with atomic_directory(out, replace=force) as partial:
            for name in found.files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found.directory / name, partial / name)
    name, size = f"{PREFIX}{repository}@{found.commit}", sum(entry.size for entry in found.manifest.files)
    place = found.directory if out is None else out
    if as_json:
        write_json({"bundle": name, "commit": found.commit, "directory": str(place), "bytes": size})
    else:
        write(f"{place}: {megabytes(size)}, all hashes match\nthis commit by name: --bundle {name}")
