"""Limits of the server. Each one keeps a client from taking more than its share of memory, time or connections."""

from __future__ import annotations

import dataclasses
import math

from bestow_edge.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What clients may use."""

    sessions: int = 8
    """WebSocket streams at once."""
    files: int = 4
    """Uploads at once, from their first byte to the end of their text."""
    connections: int = 256
    """Open connections, with or without a request."""
    upload_mb: float = 100.0
    """Size of a request with a file, MB (1e6 bytes)."""
    file_s: float = 4 * 3600.0
    """Length of the audio of a file, seconds."""
    upload_s: float = 300.0
    """Time of an upload, seconds."""
    idle_s: float = 60.0
    """Time without a message of a stream or a byte of an upload, and without a reader of an answer, seconds."""
    header_s: float = 10.0
    """Time until a request, or the settings of a stream, have come, seconds."""
    message_bytes: int = 2 * 1024 * 1024
    """Size of a message of a WebSocket."""
    waiting_s: float = 10.0
    """Audio of a stream that waits to be heard, seconds; above it the server stops reading from the client."""
    pairs: int = 4
    """Language pairs of a stream."""
    stop_s: float = 20.0
    """Time that open streams have to write the rest of their text when the server stops, seconds."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through.

        Raises:
            ConfigError: a limit is not a positive, finite number.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{field.name} {value}: expected a positive number")
