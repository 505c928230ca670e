"""Every question of the REST read side: its path, parameters and answer, for serving and for describing alike."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from aiohttp import web
from msgspec import Struct
from multidict import MultiMapping

from chatflow.adapters.aiohttp import answers, params
from chatflow.adapters.aiohttp.encoding import framed
from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.written import Written
from chatflow.domain.answers import Answered
from chatflow.domain.querying import QueryService
from chatflow.ports.store import TimeWindow

Query = MultiMapping[str]

_HEADERS = {"Content-Type": JSON, "X-Content-Type-Options": "nosniff"}


@attrs.frozen
class Endpoint:
    """One path.

    Attributes:
        query: what the answer calls it.
        body: the type of the whole answer.
        ask: reads the parameters and asks the use case.
        refusals: status codes besides 200, 400 (when it has parameters), 500, 503 and 504.
    """

    path: str
    query: str
    summary: str
    parameters: tuple[params.Parameter[Any], ...]
    body: type[Struct]
    ask: Callable[[QueryService, Query], Awaitable[Answered]]
    refusals: tuple[int, ...] = ()


def add_endpoints(app: web.Application, queries: QueryService) -> None:
    """Serve every question."""
    for endpoint in ENDPOINTS:
        app.router.add_get(endpoint.path, _handler(endpoint, queries))


def answer(body: bytes, source: str) -> web.Response:
    """JSON that says which tier it came from."""
    return web.Response(body=body, headers={**_HEADERS, "X-Cache": source, "Cache-Control": "no-store"})


def conditional(request: web.Request, query: str, answered: Answered) -> web.StreamResponse:
    """The answer, or 304 where the client has it already (RFC 9110, section 13.1.2).

    The tag is weak: it says nothing of how long this query took.
    """
    headers = {"X-Cache": answered.source.value, "ETag": f'W/"{answered.digest}"', "Cache-Control": "no-cache"}
    known = request.headers.get("If-None-Match")
    if known is not None and _names(known, answered.digest):
        status, body = 304, b""
    else:
        status, body = 200, framed(query, answered)
        headers |= _HEADERS
    if Written.fits(request):
        return Written(status, headers, body)
    return web.Response(status=status, headers=headers, body=body)


def _names(known: str, digest: str) -> bool:
    return known.strip() == "*" or any(tag.strip().removeprefix("W/") == f'"{digest}"' for tag in known.split(","))


def _handler(endpoint: Endpoint, queries: QueryService) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        answered = await endpoint.ask(queries, request.rel_url.query)
        return conditional(request, endpoint.query, answered)

    return handle


async def _room(queries: QueryService, query: Query) -> Answered:
    return await queries.room_page(
        params.ROOM.read(query),
        limit=params.LIMIT.read(query),
        cursor=params.CURSOR.read(query),
        window=_window_or_none(query),
        min_seq=params.MIN_SEQ.read(query),
    )


async def _user(queries: QueryService, query: Query) -> Answered:
    return await queries.user_page(
        params.USER.read(query),
        limit=params.LIMIT.read(query),
        cursor=params.CURSOR.read(query),
        window=_window_or_none(query),
    )


async def _active(queries: QueryService, query: Query) -> Answered:
    return await queries.active_users(params.read_window(query))


async def _user_rooms(queries: QueryService, query: Query) -> Answered:
    return await queries.user_rooms(params.USER.read(query))


async def _throughput(queries: QueryService, query: Query) -> Answered:
    return await queries.throughput(params.MINUTES.read(query))


async def _top_users(queries: QueryService, query: Query) -> Answered:
    return await queries.top_users(params.TOP.read(query))


async def _top_rooms(queries: QueryService, query: Query) -> Answered:
    return await queries.top_rooms(params.TOP.read(query))


async def _patterns(queries: QueryService, _: Query) -> Answered:
    return await queries.patterns()


def _window_or_none(query: Query) -> TimeWindow | None:
    window = params.read_window(query)
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
        _active,
    ),
    Endpoint(
        "/api/users/rooms",
        "userRooms",
        "The rooms a user has written in, latest activity first",
        (params.USER,),
        answers.documented(answers.RoomsOfUser),
        _user_rooms,
    ),
    Endpoint(
        "/api/analytics/throughput",
        "messagesPerMinute",
        "Messages per minute, newest first",
        (params.MINUTES,),
        answers.documented(answers.Minutes),
        _throughput,
    ),
    Endpoint(
        "/api/analytics/top-users",
        "topActiveUsers",
        "The users with most messages",
        (params.TOP,),
        answers.documented(answers.TopUserList),
        _top_users,
    ),
    Endpoint(
        "/api/analytics/top-rooms",
        "topActiveRooms",
        "The rooms with most messages",
        (params.TOP,),
        answers.documented(answers.TopRoomList),
        _top_rooms,
    ),
    Endpoint(
        "/api/analytics/patterns",
        "userParticipationPatterns",
        "Messages by hour of the day, UTC",
        (),
        answers.documented(answers.Hours),
        _patterns,
    ),
)
