"""Libraries of audio, imported where they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from bestow_edge.core.errors import MissingExtraError


def import_library(name: str) -> ModuleType:
    """Import a library that comes with this package.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(name, extra="") from error
