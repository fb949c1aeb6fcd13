"""Errors as clients see them: one sentence in the JSON of OpenAI's API, with a status."""

from __future__ import annotations

from starlette.responses import JSONResponse

from bestow_edge.core.errors import (
    AudioError,
    BestowEdgeError,
    ConfigError,
    PromptError,
    RefusedError,
)

WRONG_DATA, TOO_BIG, INTERNAL = 1007, 1009, 1011  # codes that close a WebSocket
INTERNAL_TEXT = "the server failed; its log has the reason"


def as_refusal(error: BestowEdgeError) -> RefusedError | None:
    """Return the refusal that an error is for a client, None if the client did not cause it."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, AudioError | ConfigError | PromptError):
        return RefusedError(str(error), status=400, code=WRONG_DATA)
    return None


def problem(message: str, status: int) -> dict[str, dict[str, object]]:
    """Return the JSON of an error."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = {401: "invalid_api_key", 404: "not_found", 503: "overloaded"}.get(status)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def problem_response(error: RefusedError) -> JSONResponse:
    """Return the answer to a request that is refused."""
    headers = {"Connection": "close"}  # the rest of its body is not read
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = "5"
    return JSONResponse(problem(str(error), error.status), error.status, headers)
