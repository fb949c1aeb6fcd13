"""JSON of files that anybody may have written: bounds on size, depth and digits. Standard library only."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from bestow_edge.core.errors import ConfigError

MOST_BYTES = 64_000_000
"""Of a file; the configs of the largest vocabularies have some megabytes."""
DEEPEST = 100
"""Lists and objects within each other."""
MOST_DIGITS = 20
"""Of a whole number: 64 bits have 20."""


def parse_json(content: str | bytes, where: str) -> Any:  # Any: JSON
    """Read JSON; NaN is refused, infinity is not: some transformers configs have it.

    Args:
        content: the text, or its bytes in UTF-8.
        where: the file, for messages.

    Raises:
        ConfigError: if it is not JSON, too large or too deep, a whole number in it has more than 64 bits, or a text in
            it is none that UTF-8 can hold.
    """
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{where}: not valid JSON (more than {MOST_BYTES} bytes)")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        values = _DECODER.decode(text)
        _check_depth(values)
        if _SURROGATE.search(text):
            json.dumps(values, ensure_ascii=False).encode()  # half of a pair, which nobody can write again, raises
    except (ValueError, RecursionError) as error:  # of the encoding, the syntax, a number or the depth
        raise ConfigError(f"{where}: not valid JSON ({error})") from error
    return values


def parse_object(content: str | bytes, where: str) -> dict[str, Any]:  # Any: JSON
    """Read a JSON object; arguments and errors are those of `parse_json`."""
    values = parse_json(content, where)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {type(values).__name__}")
    return values


def read_json(path: Path) -> dict[str, Any]:  # Any: JSON
    """Read a JSON object from a UTF-8 file.

    Raises:
        ConfigError: if the file is not a JSON object, see `parse_json`.
    """
    with path.open("rb") as file:
        return parse_object(file.read(MOST_BYTES + 1), str(path))


def _constant(text: str) -> float:
    if math.isnan(value := float(text)):
        raise ValueError(f"{text} is no number")
    return value


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits, expected at most {MOST_DIGITS}")
    return int(text)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer)


def _check_depth(values: object) -> None:
    level = [values]
    for _ in range(DEEPEST):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")
