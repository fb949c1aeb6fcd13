"""Ranges of the fields of configs. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bestow_edge.core.errors import ConfigError


def check_ranges(where: str, config: object, **ranges: tuple[float, float]) -> None:
    """Check that numbers of a config are within their ranges; NaN is within none.

    Args:
        where: the config, for messages.
        config: has the fields.
        ranges: least and largest value of each field, both allowed.

    Raises:
        ConfigError: names the first field that is not.
    """
    for name, (least, most) in ranges.items():
        if not least <= (value := getattr(config, name)) <= most:
            raise ConfigError(f"{where}: {name} is {value}; expected {least:g} to {most:g}")


def check_tokens(where: str, ids: Iterable[int], llm: Mapping[str, Any]) -> None:  # Any: a transformers config
    """Check that token ids are rows of an LLM's embedding.

    Args:
        where: what names them, for messages.
        ids: the token ids.
        llm: the LLM's transformers config; one without `vocab_size` is checked where its size is needed.

    Raises:
        ConfigError: names the first one that is not.
    """
    vocabulary = llm.get("vocab_size", 2**24)
    for token_id in ids:
        if not 0 <= token_id < vocabulary:
            raise ConfigError(f"{where}: token id {token_id}; expected 0 to {vocabulary - 1}, the LLM's vocabulary")
