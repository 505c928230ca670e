"""Who may ask: each request's ``Host`` and ``Origin`` before its handler, and what every answer says to browsers.

``/health`` is for balancers and probes and asks for nothing. Pages and descriptions are for anybody who asks for them
by one of our names. All else is for our own pages, allowed ones, and trusted programs; see `Admission.judge`.
"""

from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from chatflow.adapters.aiohttp.errors import error_answer, refusal
from chatflow.domain.admission.addresses import Client
from chatflow.domain.admission.origins import ANY
from chatflow.domain.admission.rules import Admission, Arrival, BearsToken, no_token

ADMISSION: web.AppKey[Admission] = web.AppKey("admission", Admission)
PEER_OF: web.AppKey[Callable[[web.BaseRequest], str]] = web.AppKey("peer_of", Callable)  # type: ignore[arg-type]
"""Address of the other end of a request's connection, or the one that its PROXY header names."""

CLIENT: web.RequestKey[Client] = web.RequestKey("client", Client)
"""Who has sent a request; set unless it is for ``/health``."""

HEALTH = "/health"
READ = ("/api/", "/metrics")
PREFLIGHT_FRESH_S = 600

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": "Authorization, If-None-Match",
    "Access-Control-Max-Age": str(PREFLIGHT_FRESH_S),
}
_ASKS_FIRST = hdrs.ACCESS_CONTROL_REQUEST_METHOD


def guard(app: web.Application, admission: Admission, bears_token: BearsToken = no_token) -> None:
    """Let nothing into an application that may not come in; before any other middleware is added."""
    app[ADMISSION] = admission
    app.middlewares.append(_guarding(admission, bears_token))
    app.on_response_prepare.append(_finish)


def _guarding(admission: Admission, bears_token: BearsToken) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == HEALTH:
            return await handler(request)

        def values(name: str) -> list[str]:
            return request.headers.getall(name, [])

        client = request[CLIENT] = admission.client(request.app[PEER_OF](request), values)
        needs_origin = request.path.startswith(READ)
        try:
            rejection = await admission.rejection(request.path, values, client, bears_token, needs_origin=needs_origin)
        except Exception as exc:  # noqa: BLE001  # like that of a handler
            return error_answer(request, exc)
        if rejection is not None:
            return refusal(rejection.status, rejection.code, rejection.reason)
        allow_origin = admission.allow_origin(Arrival.of(values, client)) if admission.has_guests else ""
        if allow_origin and request.method == hdrs.METH_OPTIONS and _ASKS_FIRST in request.headers:
            response: web.StreamResponse = web.Response(status=204, headers=_PREFLIGHT)
        else:
            response = await handler(request)
        if allow_origin:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allow_origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = "X-Cache, ETag, Retry-After"
        if admission.has_guests and allow_origin != ANY:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        return response

    return middleware


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    """Whatever the handler has left out; aiohttp would name itself and its version."""
    response.headers.pop(hdrs.SERVER, None)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
