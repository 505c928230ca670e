"""The durable home of messages: the only authority on what exists and in which order.

Promises of every adapter:

* One message id of one user, one row. One ``(room_id, seq)``, one row; a room's ``seq`` has no gaps.
* ``append_batch`` is one transaction: all of it is visible, or nothing is. Summaries change in the same one.
* Reads see whole transactions only.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from chatflow.ports.messages import Message, MessageKey, StoredMessage


@attrs.frozen
class Appended:
    """What one commit did.

    Attributes:
        stored: every distinct message of the batch with its ``seq``, in arrival order; for a duplicate the row as
            it was stored the first time.
        duplicates: how many of the batch were stored before or stood twice in it.
    """

    stored: tuple[StoredMessage, ...]
    duplicates: int


class MessageStore(Protocol):
    """The write side: one writer per room at a time, enforced by the store itself."""

    async def append_batch(self, messages: Sequence[Message]) -> Appended:
        """Number and store the messages that are new, in the given order, and find those that are not.

        Raises:
            RowRejected: at least one row cannot be stored by any retry; nothing was stored.
            StoreUnavailable: the outcome is unknown; call again with the same messages.
            SequenceCollision: another writer bypassed the head lock; nothing was stored.
        """

    async def add_dead_letter(self, message: Message, reason: str) -> None:
        """Keep a message that cannot be stored, with the reason, for inspection and replay; idempotent by key.

        Raises:
            StoreUnavailable: not kept; do not ack it.
        """

    async def ping(self) -> None:
        """Return when the store can take a write.

        Raises:
            StoreUnavailable: it cannot.
        """


@attrs.frozen
class TimeWindow:
    """Acceptance times in microseconds since the epoch: ``start_us <= t <= end_us``; ``None`` is open."""

    start_us: int | None = None
    end_us: int | None = None


@attrs.frozen
class UserCursor:
    """A position in a user's history: the next page holds strictly older rows."""

    accepted_at_us: int
    room_id: str
    seq: int


class MessageReader(Protocol):
    """Rooms and users, newest first. All methods raise ``StoreUnavailable``, ``StoreOverloaded``, ``QueryTimeout``."""

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        """The last ``seq`` of each room; a room without messages is left out."""

    async def room_page(
        self, room_id: str, *, limit: int, before_seq: int | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        """Newest first; only ``seq < before_seq`` when given."""

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        """Oldest first, ``seq > after_seq``: what a client that has seen ``after_seq`` misses."""

    async def user_page(
        self, user_id: int, *, limit: int, before: UserCursor | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        """Newest first by ``(accepted_at, room_id, seq)``; only rows before the cursor when given."""

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        """Which of these are stored, and as what."""


@attrs.frozen
class UserRoom:
    """One room a user has written in. ``last_activity_us``: acceptance time of the latest message."""

    room_id: str
    last_activity_us: int
    message_count: int


@attrs.frozen
class ActivityCursor:
    """A position among a user's rooms: the next page holds those strictly after it, latest activity first."""

    last_activity_us: int
    room_id: str


@attrs.frozen
class UserCount:
    """A user and how many messages they have stored."""

    user_id: int
    username: str
    message_count: int


@attrs.frozen
class RoomCount:
    """A room, how many messages it holds, and by how many different users."""

    room_id: str
    message_count: int
    unique_users: int


@attrs.frozen
class MinuteCount:
    """Messages accepted within one minute. ``minute_us``: its start, microseconds since the epoch."""

    minute_us: int
    message_count: int


@attrs.frozen
class HourCount:
    """Messages accepted in one hour of the day (0-23, UTC), over all days."""

    hour_of_day: int
    message_count: int
    unique_users: int


class Analytics(Protocol):
    """Counts, from summary tables or computed. All methods raise like ``MessageReader``; ties break by id."""

    async def active_users(self, window: TimeWindow) -> int:
        """Different users with a message in the window."""

    async def user_rooms(self, user_id: int, *, limit: int, after: ActivityCursor | None = None) -> list[UserRoom]:
        """Latest activity first, then by room; only rooms after the cursor when given."""

    async def throughput(self, limit: int) -> list[MinuteCount]:
        """The latest ``limit`` minutes that have messages, newest first."""

    async def top_users(self, n: int) -> list[UserCount]:
        """Most messages first, then the smaller user id."""

    async def top_rooms(self, n: int) -> list[RoomCount]:
        """Most messages first, then the smaller room id."""

    async def patterns(self) -> list[HourCount]:
        """By hour of the day, only hours that have messages, ascending."""

    async def total_messages(self) -> int:
        """All stored messages."""


@attrs.frozen
class DeadLetter:
    """A message that could not be stored.

    Attributes:
        id: of the dead letter, not of the message.
        message_id: as it came; ``""`` when unreadable.
        message_json: the original, as JSON text.
        retry_count: replays so far.
        created_at_us: microseconds since the epoch.
        last_retry_us: of the latest replay, or of the message's return from it; ``None``: never replayed.
        user_id: of the message, as text, as it came; ``""`` when unreadable.
    """

    id: int
    message_id: str
    message_json: str
    error_reason: str
    retry_count: int
    created_at_us: int
    last_retry_us: int | None
    resolved: bool
    user_id: str = ""


class DeadLetters(Protocol):
    """Inspect and resolve dead letters. All methods raise ``StoreUnavailable``."""

    async def list_dead(self, *, limit: int, include_resolved: bool = False, after_id: int = 0) -> list[DeadLetter]:
        """Oldest first; only those with a greater id than ``after_id``."""

    async def get_dead(self, dead_letter_id: int) -> DeadLetter | None:
        """One dead letter; ``None`` when there is none with this id."""

    async def mark_retried(self, dead_letter_id: int, *, resolved: bool) -> None:
        """Count a replay, and set whether the dead letter is resolved."""

    async def resolve(self, letter: DeadLetter) -> bool:
        """Resolve a replayed dead letter unless it was replayed or came back since it was read; whether it did."""


@attrs.frozen
class Finding:
    """Something an audit found wrong.

    Attributes:
        check: ``sequence``, ``head``, ``room_summary``, ``user_summary``, ``user_room_summary``, ``commits``,
            ``missing``, ``misplaced`` or ``doubled``.
        subject: the room, user, partition or message id.
    """

    check: str
    subject: str
    expected: str
    found: str


AckedKey = tuple[str, int | None]
"""Message id and user id of an ack; ``None`` where nobody noted the user."""

Copy = tuple[int, str]
"""User id and room of one stored row."""


class Auditor(Protocol):
    """Recount everything from the messages. All methods raise ``StoreUnavailable``."""

    async def recount(
        self, *, summaries: bool, limit: int = 100, started: Callable[[str], None] = lambda _: None
    ) -> tuple[int, list[Finding]]:
        """How many messages there are, and what is wrong.

        Checked: gaps in ``seq``, heads, summaries when they are on, and commits confirmed to processors. ``started``
        is told what is counted next, in words; from any thread.
        """

    async def copies(self, keys: Sequence[AckedKey]) -> dict[AckedKey, list[Copy]]:
        """Every stored row of each: of that user, or of everybody where the user is ``None``."""
