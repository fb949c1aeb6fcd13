"""The Hugging Face Hub: downloads into its cache, and its errors as ours.

huggingface_hub is imported when a repository is asked for, never before: the runtime works without it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import BestowEdgeError, HubError, MissingExtraError

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # of the question whether the Hub can be reached
SWITCHED_OFF = "downloads are switched off (--offline or HF_HUB_OFFLINE): allow them, or give a folder"
UNREACHABLE = "the Hub cannot be reached: check the connection, or give a folder"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def import_library() -> Any:  # Any: a module that may be absent
    """Import huggingface_hub.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    return huggingface_hub


def cache() -> Path:
    """Return the folder of the Hub's cache.

    Raises:
        MissingExtraError: if huggingface_hub is not installed.
    """
    import_library()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def snapshot(
    label: str,
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    offline: bool = False,
    cached: bool = False,
) -> Path:
    """Download files of a repository into the Hub's cache, as far as they are not there; return their folder.

    Args:
        label: begins the messages of errors.
        repository: `OWNER/NAME`.
        revision: branch, tag or commit; None = the main branch.
        patterns: names of files, `*` stands for anything.
        offline: look at the cache alone. `HF_HUB_OFFLINE=1` does the same.
        cached: look at the cache alone, because the Hub cannot be reached or need not be.

    Raises:
        HubError: if the Hub has no such repository, refuses it or cannot be reached.
        MissingExtraError: if huggingface_hub is not installed.
    """
    hub = import_library()
    offline = offline or hub.is_offline_mode()
    with hub_errors(label, revision, SWITCHED_OFF if offline else UNREACHABLE):
        return Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline or cached,
            )
        )


def latest_commit(label: str, repository: str, revision: str | None) -> str | None:
    """Return the commit that a revision is now; None, with a warning, if the Hub cannot be reached, or must not be.

    `snapshot_download` does not tell: it takes an older commit from the cache in silence.

    Raises:
        HubError: if the Hub has no such repository or revision, or refuses it.
        MissingExtraError: if huggingface_hub is not installed.
    """
    hub = import_library()
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if hub.is_offline_mode():
        return None
    with hub_errors(label, revision):
        try:
            return str(hub.HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S).sha)
        except _line_error() as error:
            if 400 <= _status(error) < 500 and _status(error) != 429:
                raise
            logger.warning("%s the Hub cannot be reached (%s): its cache is used", label, _reason(error))
            return None


@contextmanager
def hub_errors(label: str, revision: str | None, hint: str = UNREACHABLE) -> Iterator[None]:
    """Turn the errors of huggingface_hub into a `HubError`.

    Args:
        label: begins the message.
        revision: what was asked for.
        hint: what to do if something is not in the cache.
    """
    from huggingface_hub import errors

    absent = errors.EntryNotFoundError, errors.OfflineModeIsEnabled
    failed = RuntimeError, getattr(errors, "XetDownloadError", RuntimeError)
    try:
        yield
    except BestowEdgeError:
        raise
    except (*absent, *failed, ValueError, _line_error()) as error:
        reason = _reason(error)
        texts: tuple[tuple[Any, str], ...] = (  # Any: a class or several
            (errors.HFValidationError, "not an id of the Hub; an id looks like OWNER/NAME"),
            (errors.GatedRepoError, "the Hub wants its terms accepted on its page, and then: hf auth login"),
            (errors.RepositoryNotFoundError, "the Hub has no such model, or none for you: hf auth login"),
            (errors.RevisionNotFoundError, f"the Hub's repository has no revision {revision}"),
            (absent, f"not in the Hub's cache; {hint}"),
            (_line_error(), _answer(_status(error), reason)),
            (failed, f"the transfer failed ({reason}); run the command again, complete files are kept"),
            (ValueError, f"the Hub refuses, or something else answers in its place ({reason}); check HF_ENDPOINT"),
        )
        raise HubError(f"{label} {next(text for kind, text in texts if isinstance(error, kind))}") from error


def _answer(status: int, reason: str) -> str:
    if status in {401, 403}:
        return f"the Hub refuses the token ({reason}); log in with one that may do this: hf auth login"
    return f"the Hub refuses ({reason})" if 400 <= status < 500 else f"the Hub cannot be reached ({reason})"


def _line_error() -> Any:  # Any: the HTTP library's own base error, whichever library it is
    from huggingface_hub import errors

    return errors.HfHubHTTPError.__bases__[0]


def _status(error: Exception) -> int:
    """Return the status of the Hub's answer, 0 if there was none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _reason(error: Exception) -> str:
    cause = f": {error.__cause__}" if isinstance(error, RuntimeError) and error.__cause__ else ""
    return f"{' '.join(f'{error}{cause}'.split()) or type(error).__name__:.300}"
