"""Turn detection of `/v1/realtime`: a turn ends where no word was spoken for a while, by the times of the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError

WHERE = "session.audio.input.turn_detection"
KIND = "server_vad"
SILENCE_MS, PREFIX_MS = 500, 300  # of OpenAI's API
SHORTEST_MS, LONGEST_MS = 200, 60_000
KNOWN = ("type", "silence_duration_ms", "prefix_padding_ms")
ALWAYS_OFF = ("create_response", "interrupt_response")  # of sessions that answer


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnDetection:
    """Settings of a client."""

    silence_ms: int
    """Time without a word that ends a turn."""
    prefix_ms: int
    """Subtracted from the begin of the first word; the audio before it is heard in any case."""

    @classmethod
    def parse(cls, values: dict[str, Any], config: ModelConfig) -> TurnDetection:  # Any: JSON
        """Check what a client asks for.

        Raises:
            ConfigError: it cannot be had, or not with this model.
        """
        kind = CONNECTORS[config.connector.kind]
        if kind.continuous or not kind.aligned:
            raise ConfigError(f"{WHERE}: this model does not place its words in time; send null and commit yourself")
        if values.get("type") != KIND:
            raise ConfigError(
                f"{WHERE}.type {values.get('type')!r:.40}: expected {KIND}, or null instead of the object"
            )
        given = {name: value for name, value in values.items() if value is not None}
        given = {name: value for name, value in given.items() if name not in ALWAYS_OFF or value is not False}
        if unknown := set(given) - set(KNOWN):
            raise ConfigError(f"{WHERE}.{min(unknown)}: cannot be had, turns end by the words alone; leave it out")
        return cls(
            silence_ms=_milliseconds(given, "silence_duration_ms", SILENCE_MS, SHORTEST_MS),
            prefix_ms=_milliseconds(given, "prefix_padding_ms", PREFIX_MS, 0),
        )

    def to_dict(self) -> dict[str, object]:
        """Return the settings as the client sees them."""
        return {"type": KIND, "silence_duration_ms": self.silence_ms, "prefix_padding_ms": self.prefix_ms}


def _milliseconds(given: dict[str, Any], name: str, default: int, least: int) -> int:  # Any: JSON
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LONGEST_MS:
        raise ConfigError(f"{WHERE}.{name} {value!r:.40}: expected a whole number from {least} to {LONGEST_MS}")
    return value
