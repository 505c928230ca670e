"""The answers of the read side as values, before and after the edge encodes them."""

import enum
from collections.abc import Sequence

import attrs

from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import HourCount, MinuteCount, RoomCount, TimeWindow, UserCount, UserRoom

HEAD_BYTES = 8
"""In front of each cached value: the head of a room page, big-endian, or zeros."""


class Tier(enum.StrEnum):
    """The tier that answered: the local cache, the shared cache, or the store."""

    LOCAL = "l1"
    SHARED = "l2"
    MISS = "miss"


@attrs.frozen
class RoomPage:
    """Newest first."""

    room_id: str
    limit: int
    messages: Sequence[StoredMessage]
    next_cursor: str | None


@attrs.frozen
class EncodedRows:
    """A `RoomPage` whose messages the edge has encoded one by one before."""

    room_id: str
    limit: int
    rows: Sequence[bytes]
    next_cursor: str | None


@attrs.frozen
class UserPage:
    """Newest first by acceptance."""

    user_id: int
    limit: int
    messages: tuple[StoredMessage, ...]
    next_cursor: str | None


@attrs.frozen
class ActiveUsers:
    """Different users with a message in the window."""

    window: TimeWindow
    count: int


@attrs.frozen
class UserRooms:
    """A page of the rooms a user has written in, latest activity first."""

    user_id: int
    limit: int
    rooms: tuple[UserRoom, ...]
    next_cursor: str | None


@attrs.frozen
class Throughput:
    """The latest ``limit`` minutes with messages, newest first."""

    limit: int
    minutes: tuple[MinuteCount, ...]


@attrs.frozen
class TopUsers:
    """Most messages first."""

    n: int
    users: tuple[UserCount, ...]


@attrs.frozen
class TopRooms:
    """Most messages first."""

    n: int
    rooms: tuple[RoomCount, ...]


@attrs.frozen
class Patterns:
    """By hour of the day, ascending."""

    hours: tuple[HourCount, ...]


@attrs.frozen
class Total:
    """All stored messages."""

    count: int


Answer = (
    RoomPage | EncodedRows | UserPage | ActiveUsers | UserRooms | Throughput | TopUsers | TopRooms | Patterns | Total
)


@attrs.frozen
class Answered:
    """An encoded answer.

    Attributes:
        value: as it is cached: `HEAD_BYTES`, then what the edge made of the answer.
        source: the tier it came from.
        took_s: seconds from query to answer.
    """

    value: bytes
    source: Tier
    took_s: float
