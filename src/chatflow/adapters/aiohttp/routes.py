"""Every query of the REST read side: its path, parameters and answer, for serving and for describing alike."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import attrs
from aiohttp import ETag, web
from msgspec import Struct
from multidict import MultiMapping

from chatflow.adapters.aiohttp import answers, params
from chatflow.adapters.aiohttp.compat import Reply, respond
from chatflow.adapters.aiohttp.encoding import digest_of, framed
from chatflow.adapters.aiohttp.errors import JSON
from chatflow.domain.reading.answers import Answered
from chatflow.domain.reading.query import Query
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.store import TimeWindow

Parameters = MultiMapping[str]

ETAG_ANY = "*"

_HEADERS = {"Content-Type": JSON, "X-Content-Type-Options": "nosniff"}


@attrs.frozen
class Endpoint:
    """One path.

    Attributes:
        name: the query's name in the answer.
        body: the type of the whole answer.
        query: makes the query of the parameters.
        refusals: status codes besides 200, 400 (when it has parameters), 500, 503 and 504.
    """

    path: str
    name: str
    summary: str
    parameters: tuple[params.Parameter[Any], ...]
    body: type[Struct]
    query: Callable[[QueryService, Parameters], Query]
    refusals: tuple[int, ...] = ()


def add_endpoints(app: web.Application, queries: QueryService) -> None:
    """Serve every query."""
    for endpoint in ENDPOINTS:
        app.router.add_get(endpoint.path, _handler(endpoint, queries))


def answer(body: bytes, source: str) -> web.Response:
    """JSON that says which tier it came from."""
    return web.Response(body=body, headers={**_HEADERS, "X-Cache": source, "Cache-Control": "no-store"})


def conditional(known: Collection[ETag], name: str, answered: Answered) -> Reply:
    """The answer, or 304 where the client has it already (RFC 9110, section 13.1.2).

    The tag is weak: it says nothing of how long this query took.

    Args:
        known: the request's ``If-None-Match``.
        name: the query's name in the answer.
        answered: now.
    """
    digest = digest_of(answered)
    fields = {"X-Cache": answered.source.value, "ETag": f'W/"{digest}"', "Cache-Control": "no-cache"}
    if any(tag.value in (digest, ETAG_ANY) for tag in known):
        return Reply(304, fields)
    return Reply(200, _HEADERS | fields, framed(name, answered))


def _handler(endpoint: Endpoint, queries: QueryService) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        query = endpoint.query(queries, request.rel_url.query)
        known = request.if_none_match or ()

        def again() -> Reply | None:
            answered = queries.answer_locally(query)
            return None if answered is None else conditional(known, endpoint.name, answered)

        return respond(request, conditional(known, endpoint.name, await queries.answer(query)), again)

    return handle


def _room(queries: QueryService, given: Parameters) -> Query:
    return queries.room(
        params.ROOM.read(given),
        limit=params.LIMIT.read(given),
        cursor=params.CURSOR.read(given),
        window=_window_or_none(given),
        min_seq=params.MIN_SEQ.read(given),
    )


def _user(queries: QueryService, given: Parameters) -> Query:
    return queries.user(
        params.USER.read(given),
        limit=params.LIMIT.read(given),
        cursor=params.CURSOR.read(given),
        window=_window_or_none(given),
    )


def _window_or_none(given: Parameters) -> TimeWindow | None:
    window = params.read_window(given)
    return None if window == TimeWindow() else window


ENDPOINTS = (
    Endpoint(
        "/api/messages/room",
        "messagesForRoom",
        "A room's messages, newest first",
        (params.ROOM, params.LIMIT, params.CURSOR, params.START, params.END, params.MIN_SEQ),
        answers.documented(answers.RoomMessages),
        _room,
        refusals=(409,),
    ),
    Endpoint(
        "/api/messages/user",
        "userHistory",
        "A user's messages in all rooms, newest first",
        (params.USER, params.LIMIT, params.CURSOR, params.START, params.END),
        answers.documented(answers.UserMessages),
        _user,
    ),
    Endpoint(
        "/api/users/active",
        "activeUsers",
        "How many different users wrote in a time window",
        (params.START, params.END),
        answers.documented(answers.ActiveUserCount),
        lambda queries, given: queries.active_users(params.read_window(given)),
    ),
    Endpoint(
        "/api/users/rooms",
        "userRooms",
        "The rooms a user has written in, latest activity first",
        (params.USER,),
        answers.documented(answers.RoomsOfUser),
        lambda queries, given: queries.user_rooms(params.USER.read(given)),
    ),
    Endpoint(
        "/api/analytics/throughput",
        "messagesPerMinute",
        "Messages per minute, newest first",
        (params.MINUTES,),
        answers.documented(answers.Minutes),
        lambda queries, given: queries.throughput(params.MINUTES.read(given)),
    ),
    Endpoint(
        "/api/analytics/top-users",
        "topActiveUsers",
        "The users with most messages",
        (params.TOP,),
        answers.documented(answers.TopUserList),
        lambda queries, given: queries.top_users(params.TOP.read(given)),
    ),
    Endpoint(
        "/api/analytics/top-rooms",
        "topActiveRooms",
        "The rooms with most messages",
        (params.TOP,),
        answers.documented(answers.TopRoomList),
        lambda queries, given: queries.top_rooms(params.TOP.read(given)),
    ),
    Endpoint(
        "/api/analytics/patterns",
        "userParticipationPatterns",
        "Messages by hour of the day, UTC",
        (),
        answers.documented(answers.Hours),
        lambda queries, _: queries.patterns(),
    ),
)
