"""Who may use the server: the token, the page that a browser's request comes from, and the name it was asked by."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from bestow_edge.core.errors import ConfigError, RefusedError
from bestow_edge.server.metrics import Metrics
from bestow_edge.server.problems import problem_response

SHORTEST_TOKEN = 16
TOKEN_PROTOCOL = "openai-insecure-api-key."  # noqa: S105 - begin of the subprotocol by which a browser sends its token
OPEN_PATHS = ("/", "/healthz", "/static/")  # without a token; all below /static/
HARMLESS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The rules."""

    host: str
    """Address that the server listens on."""
    token: str | None = None
    """Secret that clients must send."""
    origins: tuple[str, ...] = ()
    """Pages beside the server's own that may use it, such as `https://captions.example.com`."""

    def __post_init__(self) -> None:
        """Refuse a server that anybody could use.

        Raises:
            ConfigError: the address is not loopback and there is no token, the token is too short or cannot stand in a
                header, or an origin is not one.
        """
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host}: other machines could use the server; give a token (--token or BESTOW_EDGE_TOKEN), "
                "or listen on 127.0.0.1"
            )
        if self.token is not None and not re.fullmatch(rf"[A-Za-z0-9._~-]{{{SHORTEST_TOKEN},}}", self.token):
            expected = f"at least {SHORTEST_TOKEN} letters, digits and -._~"
            raise ConfigError(
                f"token of {len(self.token)} characters: expected {expected}, such as of: openssl rand -hex 32"
            )
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/?#@\s]+", origin):
                raise ConfigError(
                    f"origin {origin!r}: expected one such as https://captions.example.com, without a path"
                )

    def check(self, scope: Scope) -> None:
        """Refuse a request or a WebSocket.

        Raises:
            RefusedError: names the rule.
        """
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.token is None and not (is_loopback(_hostname(host)) or self._names(host)):
            raise RefusedError(  # a page of another site whose name leads to this machine
                f"host {host!r}: a server without a token answers to localhost only; name its page with --origin",
                status=403,
                code=1008,
            )
        changes = scope["type"] == "websocket" or scope["method"] not in HARMLESS
        if changes and origin is not None and origin not in self.origins and not origin.endswith(f"://{host}"):
            raise RefusedError(
                f"origin {origin!r}: not the server's own page; allow it with --origin", status=403, code=1008
            )
        path = scope["path"]
        if self.token is None or path in OPEN_PATHS or path.startswith(OPEN_PATHS[-1]):
            return
        if not any(hmac.compare_digest(sent.encode(), self.token.encode()) for sent in _tokens(headers)):
            raise RefusedError(
                "no token or a wrong one; send it as: Authorization: Bearer TOKEN", status=401, code=1008
            )

    def _names(self, host: str) -> bool:
        return any(origin.endswith(f"://{host}") for origin in self.origins)


class Guard:
    """An app behind the rules."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        """Take the app."""
        self._app, self._access, self._metrics = app, access, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "lifespan":
            try:
                self._access.check(scope)
            except RefusedError as error:
                self._metrics.refusals.labels(str(error.status)).inc()
                response = problem_response(error)
                if scope["type"] == "http":
                    await response(scope, receive, send)
                else:
                    await WebSocket(scope, receive, send).send_denial_response(response)
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Return whether an address or a name is that of this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hostname(host: str) -> str:
    """Return the name in a `Host` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _tokens(headers: Headers) -> Sequence[str]:
    """Return the tokens that a client sent."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    sent = [value.strip()] if scheme.lower() == "bearer" else []
    offered = [one.strip() for line in headers.getlist("sec-websocket-protocol") for one in line.split(",")]
    return sent + [one.removeprefix(TOKEN_PROTOCOL) for one in offered if one.startswith(TOKEN_PROTOCOL)]
