"""Every query of the REST read side: its path, parameters and answer, for serving and for describing alike."""

from collections.abc import Callable
from typing import Any

import attrs
from msgspec import Struct
from multidict import MultiMapping

from chatflow.adapters.aiohttp import schemas
from chatflow.adapters.aiohttp.parameters import (
    CURSOR,
    END,
    LIMIT,
    MIN_SEQ,
    MINUTES,
    ROOM,
    ROOMS,
    START,
    TOP,
    USER,
    Parameter,
    read_window,
)
from chatflow.domain.permissions import may_read, may_read_metrics, may_read_user
from chatflow.domain.reading.query import Query
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.identity import Principal
from chatflow.ports.store import TimeWindow

Parameters = MultiMapping[str]


@attrs.frozen
class Endpoint:
    """One path.

    Attributes:
        name: the query's name in the answer.
        body: the type of the whole answer.
        query: makes the query of the parameters.
        permits: whether a principal, who is no admin, may have the answer; the parameters made a query.
        refusals: status codes besides 200, 304, 400, 500, 503 and 504.
    """

    path: str
    name: str
    summary: str
    parameters: tuple[Parameter[Any], ...]
    body: type[Struct]
    query: Callable[[QueryService, Parameters], Query]
    permits: Callable[[Principal, Parameters], bool]
    refusals: tuple[int, ...] = ()


def _room(queries: QueryService, given: Parameters) -> Query:
    return queries.room(
        ROOM.read(given),
        limit=LIMIT.read(given),
        cursor=CURSOR.read(given),
        window=_window_or_none(given),
        min_seq=MIN_SEQ.read(given),
    )


def _user(queries: QueryService, given: Parameters) -> Query:
    return queries.user(
        USER.read(given),
        limit=LIMIT.read(given),
        cursor=CURSOR.read(given),
        window=_window_or_none(given),
    )


def _own(principal: Principal, given: Parameters) -> bool:
    return may_read_user(principal, USER.read(given))


def _overall(principal: Principal, _: Parameters) -> bool:
    return may_read_metrics(principal)


def _window_or_none(given: Parameters) -> TimeWindow | None:
    window = read_window(given)
    return None if window == TimeWindow() else window


ENDPOINTS = (
    Endpoint(
        "/api/messages/room",
        "messagesForRoom",
        "A room's messages, newest first",
        (ROOM, LIMIT, CURSOR, START, END, MIN_SEQ),
        schemas.documented(schemas.RoomMessages),
        _room,
        lambda principal, given: may_read(principal, ROOM.read(given)),
        refusals=(409,),
    ),
    Endpoint(
        "/api/messages/user",
        "userHistory",
        "A user's messages in all rooms, newest first",
        (USER, LIMIT, CURSOR, START, END),
        schemas.documented(schemas.UserMessages),
        _user,
        _own,
    ),
    Endpoint(
        "/api/users/active",
        "activeUsers",
        "How many different users wrote in a time window",
        (START, END),
        schemas.documented(schemas.ActiveUserCount),
        lambda queries, given: queries.active_users(read_window(given)),
        _overall,
    ),
    Endpoint(
        "/api/users/rooms",
        "userRooms",
        "The rooms a user has written in, latest activity first",
        (USER, ROOMS, CURSOR),
        schemas.documented(schemas.RoomsOfUser),
        lambda queries, given: queries.user_rooms(USER.read(given), limit=ROOMS.read(given), cursor=CURSOR.read(given)),
        _own,
    ),
    Endpoint(
        "/api/analytics/throughput",
        "messagesPerMinute",
        "Messages per minute, newest first",
        (MINUTES,),
        schemas.documented(schemas.Minutes),
        lambda queries, given: queries.throughput(MINUTES.read(given)),
        _overall,
    ),
    Endpoint(
        "/api/analytics/top-users",
        "topActiveUsers",
        "The users with most messages",
        (TOP,),
        schemas.documented(schemas.TopUserList),
        lambda queries, given: queries.top_users(TOP.read(given)),
        _overall,
    ),
    Endpoint(
        "/api/analytics/top-rooms",
        "topActiveRooms",
        "The rooms with most messages",
        (TOP,),
        schemas.documented(schemas.TopRoomList),
        lambda queries, given: queries.top_rooms(TOP.read(given)),
        _overall,
    ),
    Endpoint(
        "/api/analytics/patterns",
        "userParticipationPatterns",
        "Messages by hour of the day, UTC",
        (),
        schemas.documented(schemas.Hours),
        lambda queries, _: queries.patterns(),
        _overall,
    ),
)
