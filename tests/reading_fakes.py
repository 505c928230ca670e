"""A store of a list for tests of the read side: same answers as the real one, countable, stoppable, breakable."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from chatflow.domain.reading.answers import HEAD_BYTES, Answer, Answered, EncodedRows
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import LocalCache, LocalTier
from chatflow.domain.reading.query_service import QueryService
from chatflow.domain.reading.read_cache import ReadCache
from chatflow.domain.reading.room_tails import RoomTails
from chatflow.ports.clock import Clock
from chatflow.ports.commit_feed import CommitFeed
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import (
    Analytics,
    HourCount,
    MessageReader,
    MinuteCount,
    RoomCount,
    TimeWindow,
    UserCount,
    UserCursor,
    UserRoom,
)

START_US = 1_795_000_000_000_000
_MINUTE_US = 60_000_000


def encode(answer: Answer) -> bytes:
    """Every answer as JSON of its fields; tells in its bytes what it was made of, and in nothing else."""
    if isinstance(answer, EncodedRows):
        raw = [msgspec.Raw(row) for row in answer.rows]
        page = {"room_id": answer.room_id, "limit": answer.limit, "messages": raw, "next_cursor": answer.next_cursor}
        return msgspec.json.encode(page)
    return msgspec.json.encode(answer)


def encode_row(stored: StoredMessage) -> bytes:
    """One message of such a page."""
    return msgspec.json.encode(stored)


def body(answered: Answered) -> bytes:
    """What `encode` made of it."""
    return answered.value[HEAD_BYTES:]


def local_tier(
    clock: Clock,
    feed: CommitFeed,
    *,
    encoders: tuple[Callable[[Answer], bytes], Callable[[StoredMessage], bytes]] = (encode, encode_row),
) -> LocalTier:
    """The local cache as a process has it."""
    policy = CachePolicy()
    fresh_s = policy.rule(Family.ROOM_NEWEST).local_ttl_s
    tails = RoomTails(*encoders, clock, fresh_s=fresh_s, tag_of=policy.room_tag)
    return LocalTier(LocalCache(clock), tails, feed)


def query_service(store: "ListStore", *, clock: Clock, encode: Callable[[Answer], bytes] = encode, **tiers):
    """A query service over this store, through these tiers of a `ReadCache`."""
    defaults = {"draw": lambda: 0.5, "sleep": getattr(clock, "sleep", asyncio.sleep)}
    cache = ReadCache(clock=clock, **defaults | tiers)
    return QueryService(store, store, cache, encode=encode, clock=clock, sleep=cache.sleep)


class ListStore:
    """Implements ``MessageReader`` and ``Analytics`` over ``rows``.

    ``calls`` counts by method, ``error`` is raised by every method, and ``gate`` holds answers back after the rows
    were read, so that a test can commit in between.
    """

    def __init__(self) -> None:
        self.rows: list[StoredMessage] = []
        self.calls: Counter[str] = Counter()
        self.error: ChatflowError | Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, room_id: str, *, user_id: int = 1, at_us: int | None = None, text: str = "hi") -> StoredMessage:
        seq = 1 + sum(row.message.room_id == room_id for row in self.rows)
        at = START_US + len(self.rows) * 1_000_000 if at_us is None else at_us
        message_id = f"01900000-0000-7000-8000-{len(self.rows):012x}"
        message = Message(message_id, room_id, user_id, f"user{user_id}", text, "TEXT", at - 5000, at)
        stored = StoredMessage(message, seq)
        self.rows.append(stored)
        return stored

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        heads = {room: self._count(room) for room in room_ids if self._count(room)}
        await self._enter("heads")
        return heads

    async def room_page(
        self, room_id: str, *, limit: int, before_seq: int | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        rows = [row for row in self._within(window) if row.message.room_id == room_id]
        rows = [row for row in rows if before_seq is None or row.seq < before_seq]
        page = sorted(rows, key=lambda row: -row.seq)[:limit]
        await self._enter("room_page")
        return page

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        rows = [row for row in self.rows if row.message.room_id == room_id and row.seq > after_seq]
        await self._enter("room_range")
        return sorted(rows, key=lambda row: row.seq)[:limit]

    async def user_page(
        self, user_id: int, *, limit: int, before: UserCursor | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        rows = [row for row in self._within(window) if row.message.user_id == user_id]
        if before is not None:
            edge = (before.accepted_at_us, before.room_id, before.seq)
            rows = [row for row in rows if _place(row) < edge]
        page = sorted(rows, key=_place, reverse=True)[:limit]
        await self._enter("user_page")
        return page

    async def locate(self, message_ids: Sequence[str]) -> dict[str, StoredMessage]:
        await self._enter("locate")
        return {row.message.message_id: row for row in self.rows if row.message.message_id in set(message_ids)}

    async def active_users(self, window: TimeWindow) -> int:
        users = {row.message.user_id for row in self._within(window)}
        await self._enter("active_users")
        return len(users)

    async def user_rooms(self, user_id: int) -> list[UserRoom]:
        latest: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for row in self.rows:
            if row.message.user_id == user_id:
                room = row.message.room_id
                counts[room] += 1
                latest[room] = max(latest.get(room, 0), row.message.accepted_at_us)
        await self._enter("user_rooms")
        return [UserRoom(room, at, counts[room]) for room, at in sorted(latest.items(), key=lambda i: (-i[1], i[0]))]

    async def throughput(self, limit: int) -> list[MinuteCount]:
        counts = Counter(row.message.accepted_at_us // _MINUTE_US * _MINUTE_US for row in self.rows)
        await self._enter("throughput")
        return [MinuteCount(minute, count) for minute, count in sorted(counts.items(), reverse=True)[:limit]]

    async def top_users(self, n: int) -> list[UserCount]:
        counts = Counter(row.message.user_id for row in self.rows)
        await self._enter("top_users")
        return [UserCount(u, f"user{u}", c) for u, c in sorted(counts.items(), key=lambda i: (-i[1], i[0]))[:n]]

    async def top_rooms(self, n: int) -> list[RoomCount]:
        users: dict[str, set[int]] = {}
        for row in self.rows:
            users.setdefault(row.message.room_id, set()).add(row.message.user_id)
        ranked = sorted(users, key=lambda room: (-self._count(room), room))[:n]
        await self._enter("top_rooms")
        return [RoomCount(room, self._count(room), len(users[room])) for room in ranked]

    async def patterns(self) -> list[HourCount]:
        users: dict[int, list[int]] = {}
        for row in self.rows:
            hour = row.message.accepted_at_us // 3_600_000_000 % 24
            users.setdefault(hour, []).append(row.message.user_id)
        await self._enter("patterns")
        return [HourCount(hour, len(who), len(set(who))) for hour, who in sorted(users.items())]

    async def total_messages(self) -> int:
        total = len(self.rows)
        await self._enter("total_messages")
        return total

    def _count(self, room_id: str) -> int:
        return sum(row.message.room_id == room_id for row in self.rows)

    def _within(self, window: TimeWindow | None) -> list[StoredMessage]:
        low = window.start_us if window and window.start_us is not None else -(2**62)
        high = window.end_us if window and window.end_us is not None else 2**62
        return [row for row in self.rows if low <= row.message.accepted_at_us <= high]

    async def _enter(self, method: str) -> None:
        self.calls[method] += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error


def _place(row: StoredMessage) -> tuple[int, str, int]:
    return (row.message.accepted_at_us, row.message.room_id, row.seq)


if TYPE_CHECKING:
    _reader: MessageReader = ListStore()
    _analytics: Analytics = ListStore()
