"""The bundles that ship with the package, and the one that is taken when none is named."""

from __future__ import annotations

from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from bestow_edge.core.bundle import MANIFEST_FILE, read_manifest
from bestow_edge.core.errors import ConfigError, PromptError
from bestow_edge.core.files import sha256
from bestow_edge.core.hub_bundles import bundle_directory

if TYPE_CHECKING:
    from bestow_edge.core.request import Request

EMBEDDED = {
    "people": "transcribes people who speak English or German, translates German to English",
    "demo": "small; translates between English and German and answers questions, hears few people",
}
"""Names of the bundles and what each can do; the first that takes a request is its default."""


def embedded_bundle(name: str = next(iter(EMBEDDED))) -> Path:
    """Return the directory of a bundle inside the package.

    Args:
        name: one of `EMBEDDED`.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in EMBEDDED:
        raise ConfigError(f"embedded bundle {name!r}: expected one of {', '.join(EMBEDDED)}")
    return Path(str(files(f"bestow_edge.runtime.assets.{name}")))


def find_bundle(bundle: str | PathLike[str] | None, request: Request | None = None) -> Path:
    """Return the directory of a bundle.

    Args:
        bundle: a directory, one of `EMBEDDED` where no directory has that name, or `hf:OWNER/NAME[@REVISION]`; None
            takes an embedded one.
        request: what is asked of it; without a bundle, the first embedded one that takes it, or else the first, whose
            error tells what is wrong.

    Raises:
        HubError, BundleError, MissingExtraError: as `bestow_edge.core.hub_bundles.bundle_directory` does.
    """
    if bundle is not None:
        embedded = str(bundle) in EMBEDDED and not Path(bundle).exists()
        return embedded_bundle(str(bundle)) if embedded else bundle_directory(bundle)
    fitting = (name for name in EMBEDDED if request is None or _takes(name, request))
    return embedded_bundle(next(fitting, next(iter(EMBEDDED))))


def describe(directory: Path) -> str:
    """Return a line about the embedded bundle in a directory: that it was chosen, its name and what it can do."""
    name = next(name for name in EMBEDDED if embedded_bundle(name) == directory)
    return f"no bundle given: using the embedded model {name!r} ({EMBEDDED[name]})"


def recorded_bundle(manifest_sha256: str) -> Path | None:
    """Return the directory of the embedded bundle whose manifest has a hash, None for all others."""
    directories = map(embedded_bundle, EMBEDDED)
    return next((one for one in directories if sha256(one / MANIFEST_FILE) == manifest_sha256), None)


def _takes(name: str, request: Request) -> bool:
    try:
        request.check(read_manifest(embedded_bundle(name)).model)
    except (ConfigError, PromptError):
        return False
    return True
