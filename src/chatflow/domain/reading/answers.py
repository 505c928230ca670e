"""What the read side can be asked, as values: each answer, and how it was come by."""

import enum

import attrs

from chatflow.domain.reading import cached_body as kept
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import HourCount, MinuteCount, RoomCount, TimeWindow, UserCount, UserRoom


class Source(enum.StrEnum):
    """Which tier answered: the process's cache, the shared cache, or the store."""

    L1 = "l1"
    L2 = "l2"
    MISS = "miss"


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
    """The rooms a user has written in, latest activity first."""

    user_id: int
    rooms: tuple[UserRoom, ...]


@attrs.frozen
class Throughput:
    """Minutes with messages, newest first."""

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


Answer = UserPage | ActiveUsers | UserRooms | Throughput | TopUsers | TopRooms | Patterns | Total


@attrs.frozen
class Answered:
    """An encoded answer.

    Attributes:
        value: what the encoder made of the answer, now or when it was cached, as caches keep it.
        source: which tier it came from.
        took_s: seconds from question to answer.
    """

    value: bytes
    source: Source
    took_s: float

    @property
    def body(self) -> bytes:
        """What the encoder made of it."""
        return bytes(kept.body_of(self.value))

    @property
    def digest(self) -> str:
        """Equal for equal bodies."""
        return kept.digest_of(self.value)


@attrs.frozen
class Everything:
    """One answer to each question, each from its own source."""

    room: Answered
    user: Answered
    active: Answered
    user_rooms: Answered
    throughput: Answered
    top_users: Answered
    top_rooms: Answered
    patterns: Answered
    total: Answered
