"""Configs of other projects, which may be damaged or hostile: checked before anything is built or allocated of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import BestowEdgeError, ConfigError
from bestow_edge.core.json_text import read_json
from bestow_edge.core.networks import check_fields

T = TypeVar("T")
Untyped = Any  # a transformers config: they have no types
_FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, StrictDataclassError, TypeError, ValueError,
)  # fmt: skip


@contextmanager
def refused(message: str, error_type: type[BestowEdgeError] = ConfigError, *more: type[Exception]) -> Iterator[None]:
    """Turn what a library raises for a value or a file that it cannot use into one sentence.

    Libraries check few values of a config; the others fail as any of Python's errors, wherever they are used first.

    Args:
        message: begins the sentence.
        error_type: of the error.
        more: errors that a library derives from Exception alone.

    Raises:
        BestowEdgeError: of the type that is given.
    """
    try:
        yield
    except BestowEdgeError:
        raise
    except (*_FAULTS, *more) as error:
        raise error_type(f"{message} ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """Return the first 200 characters of what an error says."""
    return f"{' '.join(str(error).split()) or type(error).__name__:.200}"


def read_config(folder: Path, message: str = "transformers refuses its config") -> Untyped:
    """Return transformers' config of a folder. No code of the folder is run.

    Args:
        folder: with config.json.
        message: of the error.

    Raises:
        ConfigError: if it is damaged, or transformers refuses it.
    """
    read_fields(folder / "config.json")
    with refused(f"{folder}: {message}"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_fields(path: Path) -> dict[str, Any]:  # Any: decoded JSON
    """Return the checked fields of a JSON file.

    Raises:
        ConfigError: if it is damaged, or `check_fields` refuses it.
    """
    fields = read_json(path)
    check_fields(fields, str(path))
    return fields


def decoded(cls: type[T], fields: dict[str, Any], part: str, where: str) -> T:  # Any: decoded JSON or YAML
    """Return a dataclass of this project made of checked values.

    Args:
        cls: the dataclass.
        fields: its fields, of any type.
        part: of the model, for messages.
        where: the source, for messages.

    Raises:
        ConfigError: if a value has the wrong type or is out of range.
    """
    try:
        return decode(cls, fields, part)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
