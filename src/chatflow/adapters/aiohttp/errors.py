"""Every refusal and failure as ``{"error":<code>,"reason":<words>}``; nothing internal is ever told."""

import msgspec
import structlog
from aiohttp import hdrs, web

from chatflow.adapters.aiohttp.parameters import InvalidParameter
from chatflow.adapters.aiohttp.schemas import Refused
from chatflow.domain.identity.faults import why_refused
from chatflow.domain.reading.cursors import InvalidCursor
from chatflow.domain.reading.query_service import Behind
from chatflow.ports.errors import (
    ChatflowError,
    IdentityUnavailable,
    QueryTimeout,
    Refusal,
    StoreOverloaded,
    StoreUnavailable,
    TokenRefused,
)

JSON = "application/json"
RETRY_AFTER_S = 1

_RETRYABLE: tuple[tuple[type[ChatflowError], int, str, str], ...] = (
    (Behind, 409, "behind", ""),
    (StoreOverloaded, 503, "backpressure", "too many queries wait for the database"),
    (QueryTimeout, 504, "query_timeout", "the database did not answer in time"),
    (IdentityUnavailable, 503, "unavailable", "tokens cannot be checked now"),
    (StoreUnavailable, 503, "unavailable", "the database cannot be reached"),
    (Refusal, 503, "unavailable", "the database cannot be reached"),
)
"""Error, status, code and reason, where it is not the error's own text; the first that fits."""

_log = structlog.get_logger()


class NoToken(ChatflowError):
    """The request brings no token, and needs one."""


class NotPermitted(ChatflowError):
    """The token is good, but not for this answer."""


def refusal(status: int, error: str, reason: str, *, retry: bool = False) -> web.Response:
    """One error answer; ``retry`` names the seconds after which another try is welcome."""
    headers = {"Cache-Control": "no-store"}
    if retry:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = msgspec.json.encode(Refused(error, reason))
    return web.Response(body=body, status=status, content_type=JSON, headers=headers)


def error_answer(request: web.Request, exc: Exception) -> web.Response:
    """The answer to a request whose handler raised this; what is not expected is logged."""
    if isinstance(exc, web.HTTPException):
        return _http(exc)
    if isinstance(exc, InvalidParameter | InvalidCursor):
        return refusal(400, "invalid_parameter", str(exc) if isinstance(exc, InvalidParameter) else f"cursor {exc}")
    if isinstance(exc, NoToken | TokenRefused):
        return _unauthorized(exc)
    if isinstance(exc, NotPermitted):
        return _challenge(refusal(403, "forbidden", "the token does not allow reading this"), "insufficient_scope")
    for kind, status, error, reason in _RETRYABLE:
        if isinstance(exc, kind):
            if error == "unavailable":
                _log.warning("http.unavailable", path=request.path, error=type(exc).__name__)
            return refusal(status, error, reason or str(exc), retry=True)
    _log.error("http.failed", method=request.method, path=request.path, exc_info=exc)
    return refusal(500, "internal", "something went wrong here; it has been logged")


def _unauthorized(exc: NoToken | TokenRefused) -> web.Response:
    if isinstance(exc, NoToken):
        return _challenge(refusal(401, "unauthorized", "a token is required: send Authorization: Bearer"))
    return _challenge(refusal(401, "unauthorized", why_refused(exc)), "invalid_token")


def _challenge(response: web.Response, error: str = "") -> web.Response:
    """Say how to come in (RFC 6750, section 3)."""
    challenge = 'Bearer realm="chatflow"'
    response.headers[hdrs.WWW_AUTHENTICATE] = f'{challenge}, error="{error}"' if error else challenge
    return response


def _http(exc: web.HTTPException) -> web.Response:
    if isinstance(exc, web.HTTPNotFound):
        return refusal(404, "not_found", "there is nothing at this path")
    if isinstance(exc, web.HTTPMethodNotAllowed):
        response = refusal(405, "method_not_allowed", f"{exc.method} is not allowed here")
        response.headers["Allow"] = ", ".join(sorted(exc.allowed_methods))
        return response
    return refusal(exc.status, "http_error", exc.reason)
