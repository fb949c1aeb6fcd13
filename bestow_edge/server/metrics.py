"""Figures of the server, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LAG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # borders of the histogram


class Metrics:
    """Counters since the start. Each server has its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.sessions = Counter("bestow_edge_sessions", "Sessions opened", ("kind",), registry=registry)
        self.audio_s = Counter("bestow_edge_audio_seconds", "Audio heard, seconds", ("kind",), registry=registry)
        self.lag_s = Histogram(
            "bestow_edge_lag_seconds",
            "Time from the arrival of a block of a stream until its text is written, seconds",
            buckets=LAG_S,
            registry=registry,
        )
        self.refusals = Counter("bestow_edge_refusals", "Requests and streams refused", ("status",), registry=registry)
        self.errors = Counter(
            "bestow_edge_errors", "Requests and streams that failed inside the server", registry=registry
        )
        self.lost = Counter(
            "bestow_edge_lost_clients", "Clients that went away before their text was complete", registry=registry
        )
        self._open = Gauge("bestow_edge_sessions_open", "Sessions open now", ("kind",), registry=registry)

    def watch(self, kind: str, count: Callable[[], float]) -> None:
        """Read the number of open sessions of a kind from a function."""
        self._open.labels(kind).set_function(count)

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)
