"""Configs of other projects, which may be damaged or hostile: checked before anything is built or allocated of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from bestow_edge.core.config import check_code, read_json
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import BestowEdgeError, ConfigError

T = TypeVar("T")
Untyped = Any  # a transformers config: they have no types
_FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, StrictDataclassError, TypeError, ValueError,
)  # fmt: skip
_DEEPEST, _MOST_VALUES = 30, 2_000_000  # vocabularies are part of some configs
_MOST_PARTS = 1000  # layers or experts; the largest published LLMs have 126 and 512
_PARTS = ("layers", "experts", "blocks")  # ends of names
_SIZES = {
    "conv_kernel_size", "d_model", "decoder_attention_heads", "decoder_ffn_dim", "decoder_layers",
    "downsample_hidden_size", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layers", "feature_size",
    "head_dim", "hidden_size", "hop_length", "intermediate_size", "max_position_embeddings", "max_source_positions",
    "max_target_positions", "n_fft", "n_window", "n_window_infer", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "num_mel_bins", "output_dim", "sampling_rate",
    "vocab_size", "win_length",
}  # fmt: skip


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


def check_fields(fields: dict[str, Any], where: str) -> None:  # Any: decoded JSON or YAML
    """Refuse fields that no model has: sizes below 1, thousands of layers, deep nesting, no numbers, names of code.

    Args:
        fields: decoded JSON or YAML.
        where: the file, for messages.

    Raises:
        ConfigError: if there is one.
    """
    level: list[tuple[str, object]] = [("", fields)]
    for _ in range(_DEEPEST):
        if not level:
            return
        for name, value in level:
            _check_value(name, value, where)
        level = list(islice(_inner(level), _MOST_VALUES + 1))
        if len(level) > _MOST_VALUES:
            raise ConfigError(f"{where}: more than {_MOST_VALUES} values; expected the config of a model")
    raise ConfigError(f"{where}: nested deeper than {_DEEPEST} levels; expected the config of a model")


def _inner(level: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    for name, value in level:
        if isinstance(value, dict):
            yield from ((str(key), inner) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            yield from ((name, inner) for inner in value)


def _check_value(name: str, value: object, where: str) -> None:
    check_code(name, value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if abs(value) >= 2**63 if isinstance(value, int) else math.isnan(value):  # infinity is the default of some fields
        raise ConfigError(f"{where}: {name} is {value!s:.30}; expected a number of at most 64 bits")
    if name in _SIZES and not 1 <= value < math.inf:
        raise ConfigError(f"{where}: {name} is {value}; expected at least 1")
    if name.endswith(_PARTS) and value > _MOST_PARTS:
        raise ConfigError(f"{where}: {name} is {value}; expected at most {_MOST_PARTS}")
