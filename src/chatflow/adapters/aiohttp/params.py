"""Query parameters: read strictly, described once for reading and for the OpenAPI document alike.

A parameter may be left out; given, it must stand once and be valid. Unknown ones are ignored.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import attrs
from multidict import MultiMapping

from chatflow.domain.messages.errors import InvalidRoom
from chatflow.domain.messages.rooms import ROOM_MAX_CHARS, normalise_room
from chatflow.domain.messages.timestamps import micros_of
from chatflow.ports.errors import ChatflowError
from chatflow.ports.store import TimeWindow

T = TypeVar("T")

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
        default: what it is when left out.
        parse: makes the value, or raises ``ValueError`` with what is wrong, to be read after the name.
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


def _room(text: str) -> str:
    try:
        return normalise_room(text)
    except InvalidRoom as exc:
        raise ValueError(f"must be 1-{ROOM_MAX_CHARS} characters of A-Z a-z 0-9 . _ -") from exc


MILLISECOND_US = 1000
_NOT_A_MOMENT = "must be a time like 2026-11-24T01:31:00Z or 2026-11-24 01:31:00 (UTC)"
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)\s?(Z|z|[+ -][0-9]{2}:?[0-9]{2})?)?",
    re.ASCII,
)


def _moment(text: str) -> int:
    """Microseconds of a moment. A blank before the offset is a ``+`` that the URL did not escape."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(_NOT_A_MOMENT)
    day, time, offset = match.groups()
    zone = (offset or "+00:00").upper().replace(" ", "+")
    try:
        return micros_of(datetime.fromisoformat(f"{day}T{time or '00:00'}{zone}"))
    except (ValueError, OverflowError) as exc:
        raise ValueError(_NOT_A_MOMENT) from exc


def _last_moment(text: str) -> int:
    """The last microsecond of a millisecond: answers show no more of a time, and what they show must find it again."""
    micros = _moment(text)
    return micros if micros % MILLISECOND_US else micros + MILLISECOND_US - 1


def _optional_moment(name: str, description: str, parse: Callable[[str], int]) -> Parameter[int | None]:
    schema = {"type": "string", "examples": ["2026-11-24T01:31:00.000Z", "2026-11-24 01:31:00"]}
    return Parameter(name, description, None, parse, schema)


def _cursor(text: str) -> str:
    return text


ROOM: Parameter[str] = Parameter(
    "roomId",
    "The room; `room5` means `5`.",
    "1",
    _room,
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
START = _optional_moment("start", "Accepted at or after this time; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", _moment)
END = _optional_moment(
    "end", "Accepted at or before this millisecond; ISO-8601 or `YYYY-MM-DD HH:MM:SS`, UTC.", _last_moment
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
