"""Settings of a stream, from a query or from JSON: types and ranges are checked before a session is opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import PolicyName
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.request import Request

Format = Literal["pcm16", "float32"]
RATES_HZ = range(8000, 192001)
FULL_SCALE = 32768.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSettings:
    """What a client asks of a stream."""

    request: Request
    rate_hz: int = 16000
    """Rate of the samples."""
    sample_format: Format = "pcm16"
    """Form of the samples in a message; little-endian, mono."""
    drafts: bool = False
    """Whether the client gets drafts of the text to come."""

    @classmethod
    def parse(cls, values: Mapping[str, object], most_pairs: int) -> StreamSettings:
        """Check settings by name.

        Raises:
            ConfigError: a name or a value is wrong; others are those of `Request`.
        """
        if unknown := set(values) - set(PARSERS):
            raise ConfigError(f"{min(unknown)!r}: no such setting; expected {', '.join(PARSERS)}")
        parsed: dict[str, Any] = {name: PARSERS[name](name, value) for name, value in values.items()}  # Any: by name
        own = {"rate": "rate_hz", "format": "sample_format", "drafts": "drafts"}
        request = Request(**{name: value for name, value in parsed.items() if name not in own})
        if request.lang is not None and (pairs := request.lang.count(",") + 1) > most_pairs:
            raise ConfigError(f"lang: {pairs} pairs, expected at most {most_pairs}")
        return cls(request=request, **{own[name]: value for name, value in parsed.items() if name in own})

    def samples(self, message: bytes) -> npt.NDArray[np.float32]:
        """Return the samples of a message, (samples,) float32 with full scale 1; see `samples_of`."""
        return samples_of(message, self.sample_format)


def samples_of(message: bytes, sample_format: Format) -> npt.NDArray[np.float32]:
    """Return the samples of bytes, (samples,) float32 with full scale 1.

    Raises:
        ConfigError: the bytes are no whole samples.
    """
    kind = np.dtype("<i2" if sample_format == "pcm16" else "<f4")
    if len(message) % kind.itemsize:
        expected = f"a multiple of {kind.itemsize} for {sample_format}"
        raise ConfigError(f"audio of {len(message)} bytes: expected {expected}; send whole samples in each message")
    samples = np.frombuffer(message, kind)
    return samples.astype(np.float32) / FULL_SCALE if sample_format == "pcm16" else samples.astype(np.float32)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: {value!r}, expected a text")
    return value


def _number(name: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}: {value!r}, expected a whole number of at least 0")
    return value


def _real(name: str, value: object) -> float:
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{name}: {value!r}, expected a number")
    return found


def _rate(name: str, value: object) -> int:
    if (rate_hz := _number(name, value)) not in RATES_HZ:
        raise ConfigError(f"{name}: {rate_hz}, expected {RATES_HZ.start} to {RATES_HZ[-1]} Hz")
    return rate_hz


def _flag(name: str, value: object) -> bool:
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if not isinstance(value, bool | str) or value not in known:
        raise ConfigError(f"{name}: {value!r}, expected true or false")
    return known[value]


def _one_of(*known: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        if value not in known:
            raise ConfigError(f"{name}: {value!r}, expected {' or '.join(known)}")
        return str(value)

    return parse


PARSERS: dict[str, Callable[[str, object], object]] = {
    "lang": _text,
    "policy": _one_of(*get_args(PolicyName)),
    "k": _number,
    "l": _number,
    "threshold": _number,
    "delay": _number,
    "blank_bias": _real,
    "lookahead": _number,
    "latency": _text,
    "rate": _rate,
    "format": _one_of(*get_args(Format)),
    "drafts": _flag,
}
"""Checks of each setting."""
