"""Every question of the REST read side: its path, parameters and answer, for serving and for describing alike."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from aiohttp import hdrs, web
from msgspec import Struct
from multidict import MultiMapping

from chatflow.adapters.aiohttp import answers, params
from chatflow.adapters.aiohttp.encoding import framed
from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.written import Reply, respond
from chatflow.domain.reading.answers import Answered
from chatflow.domain.reading.queries import Question, Questions
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.store import TimeWindow

Query = MultiMapping[str]

_HEADERS = {"Content-Type": JSON, "X-Content-Type-Options": "nosniff"}


@attrs.frozen
class Endpoint:
    """One path.

    Attributes:
        query: what the answer calls it.
        body: the type of the whole answer.
        question: made of the parameters.
        refusals: status codes besides 200, 400 (when it has parameters), 500, 503 and 504.
    """

    path: str
    query: str
    summary: str
    parameters: tuple[params.Parameter[Any], ...]
    body: type[Struct]
    question: Callable[[Questions, Query], Question]
    refusals: tuple[int, ...] = ()


def add_endpoints(app: web.Application, queries: QueryService) -> None:
    """Serve every question."""
    for endpoint in ENDPOINTS:
        app.router.add_get(endpoint.path, _handler(endpoint, queries))


def answer(body: bytes, source: str) -> web.Response:
    """JSON that says which tier it came from."""
    return web.Response(body=body, headers={**_HEADERS, "X-Cache": source, "Cache-Control": "no-store"})


def conditional(known: str | None, query: str, answered: Answered) -> Reply:
    """The answer, or 304 where the client has it already (RFC 9110, section 13.1.2).

    The tag is weak: it says nothing of how long this query took.

    Args:
        known: the request's ``If-None-Match``.
        query: what the answer calls the question.
        answered: now.
    """
    digest = answered.digest
    fields = {"X-Cache": answered.source.value, "ETag": f'W/"{digest}"', "Cache-Control": "no-cache"}
    if known is not None and _names(known, digest):
        return Reply(304, fields)
    return Reply(200, _HEADERS | fields, framed(query, answered))


def _names(known: str, digest: str) -> bool:
    return known.strip() == "*" or any(tag.strip().removeprefix("W/") == f'"{digest}"' for tag in known.split(","))


def _handler(endpoint: Endpoint, queries: QueryService) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        question = endpoint.question(queries.questions, request.rel_url.query)
        known = request.headers.get(hdrs.IF_NONE_MATCH)

        def again() -> Reply | None:
            answered = queries.recall(question)
            return None if answered is None else conditional(known, endpoint.query, answered)

        return respond(request, conditional(known, endpoint.query, await queries.ask(question)), again)

    return handle


def _room(questions: Questions, query: Query) -> Question:
    return questions.room(
        params.ROOM.read(query),
        limit=params.LIMIT.read(query),
        cursor=params.CURSOR.read(query),
        window=_window_or_none(query),
        min_seq=params.MIN_SEQ.read(query),
    )


def _user(questions: Questions, query: Query) -> Question:
    return questions.user(
        params.USER.read(query),
        limit=params.LIMIT.read(query),
        cursor=params.CURSOR.read(query),
        window=_window_or_none(query),
    )


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
        lambda questions, query: questions.active_users(params.read_window(query)),
    ),
    Endpoint(
        "/api/users/rooms",
        "userRooms",
        "The rooms a user has written in, latest activity first",
        (params.USER,),
        answers.documented(answers.RoomsOfUser),
        lambda questions, query: questions.user_rooms(params.USER.read(query)),
    ),
    Endpoint(
        "/api/analytics/throughput",
        "messagesPerMinute",
        "Messages per minute, newest first",
        (params.MINUTES,),
        answers.documented(answers.Minutes),
        lambda questions, query: questions.throughput(params.MINUTES.read(query)),
    ),
    Endpoint(
        "/api/analytics/top-users",
        "topActiveUsers",
        "The users with most messages",
        (params.TOP,),
        answers.documented(answers.TopUserList),
        lambda questions, query: questions.top_users(params.TOP.read(query)),
    ),
    Endpoint(
        "/api/analytics/top-rooms",
        "topActiveRooms",
        "The rooms with most messages",
        (params.TOP,),
        answers.documented(answers.TopRoomList),
        lambda questions, query: questions.top_rooms(params.TOP.read(query)),
    ),
    Endpoint(
        "/api/analytics/patterns",
        "userParticipationPatterns",
        "Messages by hour of the day, UTC",
        (),
        answers.documented(answers.Hours),
        lambda questions, _: questions.patterns(),
    ),
)
