"""The process that serves: sockets, limits of time for each connection, and a stop that lets open streams end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bestow_edge.core.errors import ConfigError
from bestow_edge.server.app import make_app
from bestow_edge.server.guard import Access
from bestow_edge.server.hub import Hub
from bestow_edge.server.limits import Limits

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
STOPS = (signal.SIGINT, signal.SIGTERM)
LEAVE_S = 5  # for answers on the way when all sessions have ended

logger = logging.getLogger(__name__)


class _ReaderLimit:
    """Ends a connection whose client does not read what it is sent."""

    limits: ClassVar[Limits]
    loop: asyncio.AbstractEventLoop
    transport: Any  # Any: a Transport, set by both protocols of uvicorn
    _writing: TimerHandle | None = None

    def pause_writing(self) -> None:
        """Begin to wait for the client."""
        super().pause_writing()  # type: ignore[misc]  # of the protocol beside this class
        self._writing = self.loop.call_later(self.limits.idle_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Take note that it has read."""
        super().resume_writing()  # type: ignore[misc]  # of the protocol beside this class
        self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)  # type: ignore[misc]  # of the protocol beside this class

    def _stop_waiting(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


class _Http(_ReaderLimit, H11Protocol):
    """HTTP with a limit of connections, and of the time until a request has come."""

    _header: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(BUSY)
            transport.close()
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def handle_websocket_upgrade(self, event: Any) -> None:  # Any: of h11
        self._stop_header()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        """Count the time while there is no request, from the first such moment on."""
        if self.transport.get_protocol() is not self or (self.cycle and not self.cycle.response_complete):
            self._stop_header()
        elif self._header is None and not self.transport.is_closing():
            self._header = self.loop.call_later(self.limits.header_s, self.transport.abort)

    def _stop_header(self) -> None:
        if self._header is not None:
            self._header.cancel()
            self._header = None


class _Socket(_ReaderLimit, WebSocketsSansIOProtocol):
    """WebSockets."""


class _Server(uvicorn.Server):
    """Ends the streams before the connections."""

    def __init__(self, config: uvicorn.Config, hub: Hub, started: Callable[[int], None]) -> None:
        super().__init__(config)
        self._hub, self._started = hub, started
        self._ignored = [number for number in STOPS if signal.getsignal(number) is signal.SIG_IGN]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, unless the process was started to ignore this signal, as Ctrl-C in the background of a script."""
        if sig not in self._ignored:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # no new connections
        await self._hub.stop(lambda: self.force_exit)
        await super().shutdown(sockets)


def serve(hub: Hub, access: Access, *, port: int, started: Callable[[int], None]) -> None:
    """Serve until SIGTERM, or SIGINT unless it is ignored; a second SIGINT does not wait for open streams.

    Args:
        hub: the model.
        access: address and rules.
        port: 0 = a free one.
        started: is called with the port when the server listens.

    Raises:
        ConfigError: the address or the port cannot be used.
    """
    config = uvicorn.Config(
        make_app(hub, access),
        http=type("Http", (_Http,), {"limits": hub.limits}),
        ws=type("Socket", (_Socket,), {"limits": hub.limits}),
        ws_max_size=hub.limits.message_bytes,
        ws_ping_interval=None,  # a stream without messages ends by `idle_s`; a full inbox reads no answers to pings
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LEAVE_S,
    )
    server = _Server(config, hub, started)
    listening = _listen(access.host, port)
    before = {
        number: signal.signal(number, lambda *_: None) for number in STOPS
    }  # uvicorn raises them again at its end
    try:
        server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
        hub.close()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=256)
    except OSError as error:
        reason = f"{error.strerror or error}"
        raise ConfigError(f"{host}:{port}: cannot listen there ({reason}); choose another --host or --port") from error
