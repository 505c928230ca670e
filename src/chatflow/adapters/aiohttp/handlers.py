"""From a request to its answer: the query of an endpoint, conditional requests, and errors as JSON."""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import ETag, web
from aiohttp.typedefs import Handler

from chatflow.adapters.aiohttp.bearer import principal_of
from chatflow.adapters.aiohttp.compat import Reply, respond
from chatflow.adapters.aiohttp.encoding import digest_of, framed
from chatflow.adapters.aiohttp.endpoints import ENDPOINTS, Endpoint
from chatflow.adapters.aiohttp.errors import JSON, NotPermitted, error_answer
from chatflow.adapters.aiohttp.parameters import check_names
from chatflow.domain.reading.answers import Answered
from chatflow.domain.reading.query_service import QueryService

ETAG_ANY = "*"

OURSELVES, ITS_READER = "no-cache", "private, no-cache"
"""Who may keep an answer, to ask each time whether it is still right."""

_HEADERS = {"Content-Type": JSON, "X-Content-Type-Options": "nosniff"}


def add_endpoints(app: web.Application, queries: QueryService) -> None:
    """Serve every query."""
    for endpoint in ENDPOINTS:
        app.router.add_get(endpoint.path, _handler(endpoint, queries))


def answer(body: bytes, source: str) -> web.Response:
    """JSON that says which tier it came from."""
    return web.Response(body=body, headers={**_HEADERS, "X-Cache": source, "Cache-Control": "no-store"})


def conditional(known: Collection[ETag], name: str, answered: Answered, kept_by: str = OURSELVES) -> Reply:
    """The answer, or 304 where the client has it already (RFC 9110, section 13.1.2).

    The tag is weak: it says nothing of how long this query took.

    Args:
        known: the request's ``If-None-Match``.
        name: the query's name in the answer.
        answered: now.
        kept_by: ``Cache-Control``.
    """
    digest = digest_of(answered)
    fields = {"X-Cache": answered.source.value, "ETag": f'W/"{digest}"', "Cache-Control": kept_by}
    if any(tag.value in (digest, ETAG_ANY) for tag in known):
        return Reply(304, {**fields, "X-Content-Type-Options": "nosniff"})
    return Reply(200, _HEADERS | fields, framed(name, answered))


def _handler(endpoint: Endpoint, queries: QueryService) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        given = request.rel_url.query
        if given:
            check_names(given)
        query = endpoint.query(queries, given)
        principal = principal_of(request)
        if not (principal.permits_all or endpoint.permits(principal, given)):
            raise NotPermitted
        known = request.if_none_match or ()

        def again() -> Reply | None:
            answered = queries.answer_locally(query)
            return None if answered is None else conditional(known, endpoint.name, answered)

        answered = await queries.answer(query)
        if principal.is_open:
            return respond(request, conditional(known, endpoint.name, answered), again)
        return respond(request, conditional(known, endpoint.name, answered, ITS_READER), None)

    return handle


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into an answer."""
    try:
        return await handler(request)
    except Exception as exc:  # noqa: BLE001 - the last frame before aiohttp's own answer, which would not be JSON
        return error_answer(request, exc)
