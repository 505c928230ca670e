"""A store in memory, for tests: the promises of `ports.store` without a disk; processes share its `MemoryTables`.

No method awaits anything, so each is a transaction.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.domain.messages.rooms import is_room
from chatflow.domain.persistence.replay import message_to_json
from chatflow.ports.clock import WallClock
from chatflow.ports.errors import RowRejected
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import AckedKey, Appended, Copy, DeadLetter, Finding, TimeWindow, UserCursor

MIN_TIME_US = -30_610_224_000_000_000
"""The year 1000."""
MAX_TIME_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""
NUMBERS = {
    "user_id": range(1, 2**53),
    "sent_at_us": range(MIN_TIME_US, MAX_TIME_US + 1),
    "accepted_at_us": range(MAX_TIME_US + 1),
}
LENGTHS = {"username": 64, "message_type": 16, "text": 4000, "server_id": 64, "client_ip": 45}
DEAD_LETTER_ID_LENGTH = 255
DEAD_LETTER_USER_LENGTH = 64
REASON_LENGTH = 1000

_Key = tuple[uuid.UUID, int]


@attrs.define(eq=False)
class MemoryTables:
    """What is stored.

    Attributes:
        rooms: by room, in the order of ``seq``.
        by_key: by the UUID of the message and its user.
        dead: by number, from 1.
    """

    rooms: dict[str, list[StoredMessage]] = attrs.field(factory=dict)
    by_key: dict[_Key, StoredMessage] = attrs.field(factory=dict)
    dead: dict[int, DeadLetter] = attrs.field(factory=dict)

    @property
    def rows(self) -> Iterable[StoredMessage]:
        """All messages, in the order in which they were stored."""
        return self.by_key.values()

    def insert(self, message: Message) -> StoredMessage:
        """Store a message with the next number of its room; one whose key is stored stays as it is.

        Raises:
            RowRejected: its id is not a UUID.
        """
        key = _key_of(message)
        if key not in self.by_key:
            rows = self.rooms.setdefault(message.room_id, [])
            self.by_key[key] = StoredMessage(message, len(rows) + 1)
            rows.append(self.by_key[key])
        return self.by_key[key]


@attrs.define(eq=False)
class MemoryStore:
    """``MessageStore``, ``MessageReader``, ``DeadLetters`` and ``Auditor`` over tables that others may share."""

    wall_clock: WallClock
    tables: MemoryTables = attrs.field(factory=MemoryTables)

    async def append_batch(self, messages: Sequence[Message]) -> Appended:
        distinct: dict[_Key, Message] = {}
        for message in messages:
            distinct.setdefault(_key_of(message), message)
        fresh = [message for key, message in distinct.items() if key not in self.tables.by_key]
        for message in fresh:
            check_storable(message)
        stored = tuple([self.tables.insert(message) for message in distinct.values()])
        return Appended(stored, len(messages) - len(fresh))

    async def ping(self) -> None:
        """It is always there."""

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        rooms = self.tables.rooms
        return {room_id: rooms[room_id][-1].seq for room_id in room_ids if room_id in rooms}

    async def room_page(
        self, room_id: str, *, limit: int, before_seq: int | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        rows = reversed(self.tables.rooms.get(room_id, []))
        older = [row for row in rows if (before_seq is None or row.seq < before_seq) and is_within(row, window)]
        return older[: max(limit, 0)]

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        return [row for row in self.tables.rooms.get(room_id, []) if row.seq > after_seq][: max(limit, 0)]

    async def user_page(
        self, user_id: int, *, limit: int, before: UserCursor | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        theirs = [row for row in self.tables.rows if row.message.user_id == user_id and is_within(row, window)]
        if before is not None:
            edge = (before.accepted_at_us, before.room_id, before.seq)
            theirs = [row for row in theirs if _place(row) < edge]
        return sorted(theirs, key=_place, reverse=True)[: max(limit, 0)]

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        found = [self.tables.by_key.get((parsed, user_id)) for text, user_id in keys if (parsed := _parsed(text))]
        return {row.message.key: row for row in found if row is not None}

    async def add_dead_letter(self, message: Message, reason: str) -> None:
        message_id, now_us = _printable(str(message.message_id))[:DEAD_LETTER_ID_LENGTH], self.wall_clock()
        user_id = _printable(str(message.user_id))[:DEAD_LETTER_USER_LENGTH]
        reason = reason.encode("utf-8", "backslashreplace").decode()[:REASON_LENGTH]
        for letter in self.tables.dead.values():
            if message_id and (letter.message_id, letter.user_id) == (message_id, user_id):
                returned_us = None if letter.last_retry_us is None else now_us
                again = attrs.evolve(letter, error_reason=reason, last_retry_us=returned_us, resolved=False)
                self.tables.dead[letter.id] = again
                return
        number = len(self.tables.dead) + 1
        original = message_to_json(message)
        self.tables.dead[number] = DeadLetter(
            number, message_id, original, reason, 0, now_us, None, resolved=False, user_id=user_id
        )

    async def list_dead(self, *, limit: int, include_resolved: bool = False, after_id: int = 0) -> list[DeadLetter]:
        wanted = [letter for letter in self.tables.dead.values() if include_resolved or not letter.resolved]
        return [letter for letter in wanted if letter.id > after_id][: max(limit, 0)]

    async def get_dead(self, dead_letter_id: int) -> DeadLetter | None:
        return self.tables.dead.get(dead_letter_id)

    async def mark_retried(self, dead_letter_id: int, *, resolved: bool) -> None:
        if (letter := await self.get_dead(dead_letter_id)) is not None:
            tried = letter.retry_count + 1
            self.tables.dead[letter.id] = attrs.evolve(
                letter, retry_count=tried, last_retry_us=self.wall_clock(), resolved=resolved
            )

    async def resolve(self, letter: DeadLetter) -> bool:
        now = await self.get_dead(letter.id)
        unchanged = (letter.retry_count, letter.last_retry_us)
        if now is None or (now.retry_count, now.last_retry_us) != unchanged:
            return False
        self.tables.dead[letter.id] = attrs.evolve(now, resolved=True)
        return True

    async def recount(
        self, *, summaries: bool, limit: int = 100, started: Callable[[str], None] = lambda _: None
    ) -> tuple[int, list[Finding]]:
        started("sequences")
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for row in self.tables.rows:
            numbers[row.message.room_id].append(row.seq)
        findings = [
            Finding("sequence", room, f"1..{max(seqs)} without gaps", f"{len(seqs)} rows from {min(seqs)}")
            for room, seqs in sorted(numbers.items())
            if sorted(seqs) != list(range(1, len(seqs) + 1))
        ]
        return len(self.tables.by_key), findings[:limit]

    async def copies(self, keys: Sequence[AckedKey]) -> dict[AckedKey, list[Copy]]:
        found: dict[AckedKey, list[Copy]] = {}
        for row in self.tables.rows:
            message_id, user_id = row.message.key
            for key in {(message_id, user_id), (message_id, None)} & set(keys):
                found.setdefault(key, []).append((user_id, row.message.room_id))
        return found


def check_storable(message: Message) -> None:
    """Pass only what the columns of a database would take.

    Raises:
        RowRejected: names the field.
    """
    if not (isinstance(message.room_id, str) and is_room(message.room_id)):
        raise RowRejected("room_id: not the name of a room")
    values: Mapping[str, object] = attrs.asdict(message)
    for name, allowed in NUMBERS.items():
        value = values[name]
        if type(value) is not int or value not in allowed:
            raise RowRejected(f"{name}: not a number in range")
    for name, length in LENGTHS.items():
        value = values[name]
        if type(value) is not str or len(value) > length or not _is_encodable(value):
            raise RowRejected(f"{name}: not a text of at most {length} characters")


def is_within(row: StoredMessage, window: TimeWindow | None) -> bool:
    """Whether the message was accepted in the window; both ends belong to it."""
    if window is None:
        return True
    at_us, start_us, end_us = row.message.accepted_at_us, window.start_us, window.end_us
    return (start_us is None or at_us >= start_us) and (end_us is None or at_us <= end_us)


def _key_of(message: Message) -> _Key:
    if (parsed := _parsed(message.message_id)) is None:
        raise RowRejected("message_id: not a UUID")
    if type(message.user_id) is not int:
        raise RowRejected("user_id: not a number in range")
    return parsed, message.user_id


def _parsed(message_id: object) -> uuid.UUID | None:
    try:
        return uuid.UUID(message_id) if isinstance(message_id, str) else None
    except ValueError:
        return None


def _place(row: StoredMessage) -> tuple[int, str, int]:
    return row.message.accepted_at_us, row.message.room_id, row.seq


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


if TYPE_CHECKING:
    from chatflow.ports.store import Auditor, DeadLetters, MessageReader, MessageStore

    _: tuple[type[MessageStore], type[MessageReader], type[DeadLetters], type[Auditor]] = (
        MemoryStore,
        MemoryStore,
        MemoryStore,
        MemoryStore,
    )
