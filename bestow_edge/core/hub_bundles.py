"""Bundles that are repositories of the Hugging Face Hub: found in its cache, downloaded, uploaded."""

from __future__ import annotations

import glob
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from bestow_edge.core.bundle import MANIFEST_FILE, BundleManifest, check_files, read_manifest
from bestow_edge.core.errors import BundleError, BundleIntegrityError, BundleMissingError, HubError
from bestow_edge.core.hub import cache, hub_errors, import_library, latest_commit, snapshot

logger = logging.getLogger(__name__)

PREFIX = "hf:"
"""Begins the name of a bundle that is a repository: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`."""
CARD_FILE = "README.md"
DOCUMENTS = (CARD_FILE, "LICENSES.md")
"""Files that belong to a bundle's repository although its manifest need not list them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubBundle:
    """A bundle in the Hub's cache. All its files are there, with the hashes of the manifest."""

    directory: Path
    """Its files are links within the cache; nothing may be changed there."""
    commit: str
    """Hash of the repository's commit, 40 hexadecimal digits."""
    manifest: BundleManifest

    @property
    def files(self) -> list[str]:
        """Names of all files of the bundle that are there, the manifest and `DOCUMENTS` included."""
        return _names(self.directory, self.manifest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A bundle that was uploaded."""

    url: str
    """Page of the repository."""
    commit: str
    """Hash of the new commit, or of the last one if nothing had changed."""


def bundle_directory(bundle: str | PathLike[str]) -> Path:
    """Return the directory of a bundle, downloading it if it is a repository that is not in the Hub's cache.

    Args:
        bundle: a directory, returned as it is, or `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.

    Raises:
        HubError, BundleError, MissingExtraError: as `find_bundle` does, for a repository.
    """
    path = Path(bundle)
    if not (name := path.as_posix()).startswith(PREFIX):
        return path
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    found = find_bundle(repository, revision or None)
    if revision != found.commit:
        logger.info("%s: commit %s", name, found.commit)
    return found.directory


def find_bundle(repository: str, revision: str | None = None) -> HubBundle:
    """Download a bundle into the Hub's cache, or find it there, and compare every file with the manifest's hash.

    Only the manifest, the files that it lists, the card and the licences are downloaded. If the Hub cannot be reached,
    or `HF_HUB_OFFLINE=1` forbids it, the cache must have the revision. A commit that is in the cache needs no network.

    Args:
        repository: `OWNER/NAME`.
        revision: branch, tag or commit; None = the main branch.

    Raises:
        HubError: if there is no such repository or revision, or it is neither within reach nor in the cache.
        BundleError: if the repository is not a bundle of this format version, or a file is missing or altered.
        MissingExtraError: if huggingface_hub is not installed.
    """
    label = f"{PREFIX}{repository}{f'@{revision}' if revision else ''}:"
    commit = latest_commit(label, repository, revision)
    folder = _fetch(label, repository, revision, commit, (MANIFEST_FILE,))
    if not (folder / MANIFEST_FILE).is_file():
        raise BundleMissingError(f"{label} the repository is not a bundle: it has no {MANIFEST_FILE}")
    try:
        manifest = read_manifest(folder)
        names = [MANIFEST_FILE, *(entry.path for entry in manifest.files)]
        _fetch(label, repository, folder.name, commit, names)
        _check_links(folder, names, cache())
        check_files(folder, manifest, hashes=True)
    except BundleError as error:
        again = f"; hf cache rm model/{repository}, and it is downloaded again"
        raise type(error)(f"{label} {error}{again if isinstance(error, BundleIntegrityError) else ''}") from error
    return HubBundle(directory=folder, commit=folder.name, manifest=manifest)


def upload_bundle(
    directory: Path, repository: str, *, card: str | None, private: bool, revision: str | None, message: str
) -> Upload:
    """Upload a bundle as one commit, after comparing every file with the manifest's hash.

    One commit, not `upload_folder`, which may make several: the branch never holds half a bundle.

    Args:
        directory: the bundle. What neither its manifest nor `DOCUMENTS` names stays here.
        repository: `OWNER/NAME`; made if it does not exist.
        card: text of the model card; None = the bundle has its own.
        private: make the repository private; one that exists must be so already.
        revision: branch, made if it does not exist; None = the main branch.
        message: subject of the commit.

    Raises:
        HubError: if there is no token, the Hub refuses it, cannot be reached, or the repository is public although
            `private` is set.
        BundleError: if the bundle is missing or damaged, or a file of it is a link that leaves the directory.
        MissingExtraError: if huggingface_hub is not installed.
    """
    label = f"{PREFIX}{repository}:"
    hub = import_library()
    manifest = read_manifest(directory)
    check_files(directory, manifest, hashes=True)
    names = _names(directory, manifest)
    _check_links(directory, names, directory)
    if hub.is_offline_mode():
        raise HubError(f"{label} HF_HUB_OFFLINE forbids the upload; unset it")
    if hub.get_token() is None:
        raise HubError(f"{label} no token of the Hub; run hf auth login, or set HF_TOKEN to one that may write")
    api, add = hub.HfApi(), hub.CommitOperationAdd
    added = [add(path_in_repo=name, path_or_fileobj=directory / name) for name in names]
    if card is not None:
        added.append(add(path_in_repo=CARD_FILE, path_or_fileobj=card.encode()))
    with hub_errors(label, revision), _logged_warnings():
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise HubError(f"{label} the repository exists and is public; make it private in its settings first")
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.create_commit(repository, added, commit_message=message, revision=revision)
    return Upload(url=str(url), commit=done.oid)


def _fetch(
    label: str,
    repository: str,
    revision: str | None,
    commit: str | None,
    names: Sequence[str],
) -> Path:
    """Return the folder with these files of a commit and `DOCUMENTS`, from the cache if they are there.

    Without a commit it is what the cache has of the revision.
    """
    patterns = [*map(glob.escape, names), *DOCUMENTS]
    try:
        folder = snapshot(label, repository, revision, patterns, cached=True)
    except HubError:
        if commit is None:
            raise
    else:
        if commit is None or (folder.name == commit and all((folder / name).is_file() for name in names)):
            return folder
    return snapshot(label, repository, revision, patterns)


def _names(directory: Path, manifest: BundleManifest) -> list[str]:
    documents = (name for name in DOCUMENTS if (directory / name).is_file())
    return sorted({MANIFEST_FILE, *(entry.path for entry in manifest.files), *documents})


def _check_links(folder: Path, names: Iterable[str], root: Path) -> None:
    """Refuse a file whose links lead out of a folder."""
    root = root.resolve()
    for name in names:
        if not (folder / name).resolve().is_relative_to(root):
            raise BundleError(f"{folder / name}: a link that leaves {root}; replace it by the file itself")


@contextmanager
def _logged_warnings() -> Iterator[None]:
    """Log the library's warnings instead of printing them with a line of its code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        logger.warning("%s", " ".join(str(warning.message).split()))
