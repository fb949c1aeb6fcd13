"""The app: all routes, and errors as answers."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from bestow_edge.core.errors import BestowEdgeError, RefusedError
from bestow_edge.server.guard import Access, Guard
from bestow_edge.server.hub import Hub
from bestow_edge.server.problems import INTERNAL_TEXT, as_refusal, problem, problem_response
from bestow_edge.server.realtime import realtime
from bestow_edge.server.streams import stream
from bestow_edge.server.transcriptions import FileRoute

STATIC = Path(str(files("bestow_edge.server") / "static"))
PAGE_HEADERS = {  # the page loads nothing from elsewhere and stands in no frame
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

logger = logging.getLogger(__name__)


def make_app(hub: Hub, access: Access) -> ASGIApp:
    """Return the app of a model, behind the rules of access."""
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", health),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
            Route("/v1/audio/transcriptions", FileRoute("transcribe"), methods=["POST"]),
            Route("/v1/audio/translations", FileRoute("translate"), methods=["POST"]),
            WebSocketRoute("/v1/stream", stream),
            WebSocketRoute("/v1/realtime", realtime),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={
            BestowEdgeError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_failure,
        },
    )
    app.state.hub = hub
    return Guard(app, access, hub.metrics)


async def page(_: HttpRequest) -> Response:
    """Return the page with the captions of a microphone."""
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


async def health(http: HttpRequest) -> Response:
    """Return 200, or 503 while the server stops."""
    stopping = _hub(http).stopping
    return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)


async def metrics(http: HttpRequest) -> Response:
    """Return the figures for Prometheus."""
    return Response(_hub(http).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def models(http: HttpRequest) -> Response:
    """Return the one model, as a list."""
    return JSONResponse({"object": "list", "data": [_describe(_hub(http))]})


async def model(http: HttpRequest) -> Response:
    """Return the model by its name."""
    hub, name = _hub(http), http.path_params["name"]
    if name != hub.name:
        raise RefusedError(f"model {name[:60]!r}: this server has {hub.name!r}", status=404, code=1007)
    return JSONResponse(_describe(hub))


def _describe(hub: Hub) -> dict[str, object]:
    config = hub.model.config
    return {
        "id": hub.name,
        "object": "model",
        "created": 0,
        "owned_by": "bestow-edge",
        "pairs": list(config.pairs),
        "detects_language": bool(config.connector.detects),
        "sample_rate_hz": hub.model.sample_rate_hz,
        "policy": config.policy.name,
        "step_s": config.step_s,
    }


def _hub(http: HttpRequest) -> Hub:
    hub: Hub = http.app.state.hub
    return hub


async def _answer_error(http: HttpRequest, error: Exception) -> Response:
    refusal = as_refusal(error) if isinstance(error, BestowEdgeError) else None
    if refusal is None:
        return await _answer_failure(http, error)
    _hub(http).metrics.refusals.labels(str(refusal.status)).inc()
    return problem_response(refusal)


async def _answer_http_error(http: HttpRequest, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _answer_failure(http, error)
    _hub(http).metrics.refusals.labels(str(error.status_code)).inc()
    message = f"{http.method} {http.url.path[:80]}: {error.detail}"
    return JSONResponse(problem(message, error.status_code), error.status_code, error.headers)


async def _answer_failure(http: HttpRequest, error: Exception) -> Response:
    logger.error("%s failed", http.url.path, exc_info=error)
    _hub(http).metrics.errors.inc()
    return JSONResponse(problem(INTERNAL_TEXT, 500), 500)
