"""Every refusal and failure as ``{"error":<code>,"reason":<words>}``; nothing of the inside is ever told."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from chatflow.adapters.aiohttp.answers import Refused
from chatflow.adapters.aiohttp.params import InvalidParameter
from chatflow.domain.reading.cursors import InvalidCursor
from chatflow.domain.reading.query_service import Behind
from chatflow.ports.errors import ChatflowError, QueryTimeout, Refusal, StoreOverloaded, StoreUnavailable

JSON = "application/json"
RETRY_AFTER_S = 1

_log = structlog.get_logger()

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusal(status: int, error: str, reason: str, *, retry: bool = False) -> web.Response:
    """One error answer; ``retry`` names the seconds after which another try is welcome."""
    headers = {"Cache-Control": "no-store"}
    if retry:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = msgspec.json.encode(Refused(error, reason))
    return web.Response(body=body, status=status, content_type=JSON, headers=headers)


def errors_as_json(*, allow_origin: str = "") -> Middleware:
    """Turn what a handler raises into an answer; say which origin may read it, when one is configured."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answer(request, handler)
        if allow_origin:
            response.headers["Access-Control-Allow-Origin"] = allow_origin
            response.headers["Access-Control-Expose-Headers"] = "X-Cache, ETag, Retry-After"
            if allow_origin != "*":
                response.headers["Vary"] = "Origin"
        return response

    return middleware


async def _answer(request: web.Request, handler: _Answer) -> web.StreamResponse:
    try:
        return await handler(request)
    except ChatflowError as exc:
        return _refused(request, exc)
    except InvalidCursor as exc:
        return refusal(400, "invalid_parameter", f"cursor {exc}")
    except web.HTTPException as exc:
        return _http(exc)
    except Exception:  # noqa: BLE001 - the last frame before aiohttp's own answer, which would not be JSON
        _log.exception("http.failed", method=request.method, path=request.path)
        return refusal(500, "internal", "something went wrong here; it has been logged")


def _refused(request: web.Request, exc: ChatflowError) -> web.Response:
    if isinstance(exc, InvalidParameter):
        return refusal(400, "invalid_parameter", str(exc))
    if isinstance(exc, Behind):
        return refusal(409, "behind", str(exc), retry=True)
    if isinstance(exc, StoreOverloaded):
        return refusal(503, "backpressure", "too many queries wait for the database", retry=True)
    if isinstance(exc, QueryTimeout):
        return refusal(504, "query_timeout", "the database did not answer in time", retry=True)
    if isinstance(exc, StoreUnavailable | Refusal):
        _log.warning("http.unavailable", path=request.path, error=type(exc).__name__)
        return refusal(503, "unavailable", "the database cannot be reached", retry=True)
    _log.error("http.failed", method=request.method, path=request.path, exc_info=exc)
    return refusal(500, "internal", "something went wrong here; it has been logged")


def _http(exc: web.HTTPException) -> web.Response:
    if isinstance(exc, web.HTTPNotFound):
        return refusal(404, "not_found", "there is nothing at this path")
    if isinstance(exc, web.HTTPMethodNotAllowed):
        response = refusal(405, "method_not_allowed", f"{exc.method} is not allowed here")
        response.headers["Allow"] = ", ".join(sorted(exc.allowed_methods))
        return response
    return refusal(exc.status, "http_error", exc.reason)
