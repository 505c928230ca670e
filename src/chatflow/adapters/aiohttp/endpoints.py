"""Every query of the REST read side: its path, parameters and answer, for serving and for describing alike.

A parameter may be left out; given, it must stand once and be valid. Unknown ones are ignored.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs
from msgspec import Struct
from multidict import MultiMapping

from chatflow.adapters.aiohttp import schemas
from chatflow.adapters.aiohttp.moments import first_moment, last_moment
from chatflow.domain.messages.errors import InvalidRoom
from chatflow.domain.messages.rooms import ROOM_MAX_CHARS, normalise_room
from chatflow.domain.reading.query import Query
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.errors import ChatflowError
from chatflow.ports.store import TimeWindow

T = TypeVar("T")

Parameters = MultiMapping[str]

MAX_LIMIT = 1000
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""


class InvalidParameter(ChatflowError):
    """A parameter is not what it must be; the text names it."""

    def __init__(self, name: str, complaint: str) -> None:
        super().__init__(f"{name} {complaint}")


@attrs.frozen
class Parameter(Generic[T]):
    """One query parameter.

    Attributes:
        default: its value when left out.
        parse: the value of a text; raises ``ValueError`` with a complaint that continues the parameter's name.
        schema: its JSON schema.
    """

    name: str
    description: str
    default: T
    parse: Callable[[str], T]
    schema: Mapping[str, Any]

    def read(self, query: MultiMapping[str]) -> T:
        """The value in this query.

        Raises:
            InvalidParameter: repeated, empty or not valid.
        """
        given = query.getall(self.name, ())
        if not given:
            return self.default
        if len(given) > 1:
            raise InvalidParameter(self.name, "must not be given more than once")
        if not given[0]:
            raise InvalidParameter(self.name, "must not be empty")
        try:
            return self.parse(given[0])
        except ValueError as exc:
            raise InvalidParameter(self.name, str(exc)) from exc


_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)


def integer(name: str, description: str, *, default: int, low: int, high: int) -> Parameter[int]:
    """A decimal integer, ``low <= value <= high``, digits only."""

    def parse(text: str) -> int:
        value = int(text) if _DIGITS.fullmatch(text) else -1
        if not low <= value <= high:
            raise ValueError(f"must be an integer between {low} and {high}")
        return value

    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter(name, description, default, parse, schema)


def _room_id(text: str) -> str:
    try:
        return normalise_room(text)
    except InvalidRoom as exc:
        raise ValueError(f"must be 1-{ROOM_MAX_CHARS} characters of A-Z a-z 0-9 . _ -") from exc


def _optional_moment(name: str, description: str, parse: Callable[[str], int]) -> Parameter[int | None]:
    schema = {"type": "string", "examples": ["2026-11-24T01:31:00.000Z", "2026-11-24 01:31:00"]}
    return Parameter(name, description, None, parse, schema)


def _cursor(text: str) -> str:
    return text


ROOM: Parameter[str] = Parameter(
    "roomId",
    "The room; `room5` means `5`.",
    "1",
    _room_id,
    {"type": "string", "pattern": "^[A-Za-z0-9._-]+$", "minLength": 1, "maxLength": ROOM_MAX_CHARS, "default": "1"},
)
USER = integer("userId", "The user.", default=1, low=1, high=MAX_INTEGER)
LIMIT = integer("limit", "Most messages on the page.", default=100, low=1, high=MAX_LIMIT)
MINUTES = integer("limit", "Most minutes.", default=60, low=1, high=MAX_LIMIT)
TOP = integer("n", "How many.", default=10, low=1, high=MAX_LIMIT)
MIN_SEQ = integer(
    "minSeq",
    "The seq that the caller has seen: the answer is never from before it. Waits up to 500 ms, then 409 `behind`.",
    default=0,
    low=0,
    high=MAX_INTEGER,
)
CURSOR: Parameter[str | None] = Parameter(
    "cursor",
    "`nextCursor` of the page before, for the page after it. Opaque.",
    None,
    _cursor,
    {"type": "string", "maxLength": 256},
)
START = _optional_moment(
    "start", "Accepted at or after this time; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", first_moment
)
END = _optional_moment(
    "end", "Accepted at or before this millisecond; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", last_moment
)


def read_window(query: MultiMapping[str]) -> TimeWindow:
    """``start`` and ``end``, either of them open.

    Raises:
        InvalidParameter: one is not valid, or ``end`` lies before ``start``.
    """
    start_us, end_us = START.read(query), END.read(query)
    if start_us is not None and end_us is not None and end_us < start_us:
        raise InvalidParameter("end", "must not be before start")
    return TimeWindow(start_us, end_us)


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
    parameters: tuple[Parameter[Any], ...]
    body: type[Struct]
    query: Callable[[QueryService, Parameters], Query]
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
        refusals=(409,),
    ),
    Endpoint(
        "/api/messages/user",
        "userHistory",
        "A user's messages in all rooms, newest first",
        (USER, LIMIT, CURSOR, START, END),
        schemas.documented(schemas.UserMessages),
        _user,
    ),
    Endpoint(
        "/api/users/active",
        "activeUsers",
        "How many different users wrote in a time window",
        (START, END),
        schemas.documented(schemas.ActiveUserCount),
        lambda queries, given: queries.active_users(read_window(given)),
    ),
    Endpoint(
        "/api/users/rooms",
        "userRooms",
        "The rooms a user has written in, latest activity first",
        (USER,),
        schemas.documented(schemas.RoomsOfUser),
        lambda queries, given: queries.user_rooms(USER.read(given)),
    ),
    Endpoint(
        "/api/analytics/throughput",
        "messagesPerMinute",
        "Messages per minute, newest first",
        (MINUTES,),
        schemas.documented(schemas.Minutes),
        lambda queries, given: queries.throughput(MINUTES.read(given)),
    ),
    Endpoint(
        "/api/analytics/top-users",
        "topActiveUsers",
        "The users with most messages",
        (TOP,),
        schemas.documented(schemas.TopUserList),
        lambda queries, given: queries.top_users(TOP.read(given)),
    ),
    Endpoint(
        "/api/analytics/top-rooms",
        "topActiveRooms",
        "The rooms with most messages",
        (TOP,),
        schemas.documented(schemas.TopRoomList),
        lambda queries, given: queries.top_rooms(TOP.read(given)),
    ),
    Endpoint(
        "/api/analytics/patterns",
        "userParticipationPatterns",
        "Messages by hour of the day, UTC",
        (),
        schemas.documented(schemas.Hours),
        lambda queries, _: queries.patterns(),
    ),
)
