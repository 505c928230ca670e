"""Query parameters of the REST read side, for serving and for describing alike.

A parameter may be left out unless it is required; given, it must stand once and be valid. A known name that this path
does not use is let pass, since clients send it; any other name is a mistake and refused.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs
from multidict import MultiMapping

from chatflow.adapters.aiohttp.moments import PATTERN as MOMENT_PATTERN
from chatflow.adapters.aiohttp.moments import first_moment, last_moment
from chatflow.domain.messages.errors import InvalidRoom
from chatflow.domain.messages.rooms import ROOM_MAX_CHARS, normalise_room
from chatflow.ports.errors import ChatflowError
from chatflow.ports.store import TimeWindow

T = TypeVar("T")

MAX_LIMIT = 1000
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
SHOWN_CHARS = 64
"""Of an unknown name."""


class InvalidParameter(ChatflowError):
    """A parameter is not what it must be; the text names it."""

    def __init__(self, name: str, complaint: str) -> None:
        super().__init__(f"{name} {complaint}")


@attrs.frozen
class Parameter(Generic[T]):
    """One query parameter.

    Attributes:
        default: its value when left out; ``None`` of a required one.
        parse: the value of a text; raises ``ValueError`` with a complaint that continues the parameter's name.
        schema: its JSON schema.
    """

    name: str
    description: str
    default: T
    parse: Callable[[str], T]
    schema: Mapping[str, Any]
    is_required: bool = attrs.field(default=False, kw_only=True)

    def read(self, query: MultiMapping[str]) -> T:
        """The value in this query.

        Raises:
            InvalidParameter: missing, repeated, empty or not valid.
        """
        given = query.getall(self.name, ())
        if not given:
            if self.is_required:
                raise InvalidParameter(self.name, "is required")
            return self.default
        if len(given) > 1:
            raise InvalidParameter(self.name, "must not be given more than once")
        if not given[0]:
            raise InvalidParameter(self.name, "must not be empty")
        try:
            return self.parse(given[0])
        except ValueError as exc:
            raise InvalidParameter(self.name, str(exc)) from exc


CURSOR_MAX_CHARS = 256
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{CURSOR_MAX_CHARS}}}", re.ASCII)
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
    examples = ["2026-11-24T01:31:00.000Z", "2026-11-24 01:31:00"]
    schema = {"type": "string", "minLength": 1, "pattern": MOMENT_PATTERN, "examples": examples}
    return Parameter(name, description, None, parse, schema)


def _cursor(text: str) -> str:
    if not _CURSOR.fullmatch(text):
        raise ValueError("is not a cursor of this service")
    return text


ROOM: Parameter[str] = Parameter(
    "roomId",
    "The room; `room5` means `5`.",
    "",
    _room_id,
    {"type": "string", "pattern": "^[A-Za-z0-9._-]+$", "minLength": 1, "maxLength": ROOM_MAX_CHARS},
    is_required=True,
)
USER = integer("userId", "The user.", default=1, low=1, high=MAX_INTEGER)
LIMIT = integer("limit", "Most messages on the page.", default=100, low=1, high=MAX_LIMIT)
ROOMS = integer("limit", "Most rooms on the page.", default=100, low=1, high=MAX_LIMIT)
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
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": CURSOR_MAX_CHARS},
)
START = _optional_moment(
    "start", "Accepted at or after this time; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", first_moment
)
END = _optional_moment(
    "end", "Accepted at or before this millisecond; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", last_moment
)


KNOWN = {each.name: each for each in (ROOM, USER, START, END, LIMIT, TOP, CURSOR, MIN_SEQ)}
"""Every parameter of any path, by name."""


def check_names(query: MultiMapping[str]) -> None:
    """Refuse what would go unnoticed, such as ``roomid=5``.

    Raises:
        InvalidParameter: a name that no path knows, or one that is repeated.
    """
    for name in query:
        if name not in KNOWN:
            raise InvalidParameter(repr(name[:SHOWN_CHARS]), f"is unknown; known are {', '.join(KNOWN)}")
    if len(set(query)) < len(query):
        repeated = next(name for name in query if len(query.getall(name)) > 1)
        raise InvalidParameter(repeated, "must not be given more than once")


def read_window(query: MultiMapping[str]) -> TimeWindow:
    """``start`` and ``end``, either of them open.

    Raises:
        InvalidParameter: one is not valid, or ``end`` lies before ``start``.
    """
    start_us, end_us = START.read(query), END.read(query)
    if start_us is not None and end_us is not None and end_us < start_us:
        raise InvalidParameter("end", "must not be before start")
    return TimeWindow(start_us, end_us)
