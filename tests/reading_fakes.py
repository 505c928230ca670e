"""A store for tests of the read side, over one in memory: countable, stoppable, breakable."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from chatflow.adapters.memory.analytics import MemoryAnalytics
from chatflow.adapters.memory.store import MemoryStore, MemoryTables
from chatflow.domain.reading.answers import HEAD_BYTES, Answer, Answered, EncodedRows
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import LocalCache, LocalTier
from chatflow.domain.reading.query_service import QueryService
from chatflow.domain.reading.read_cache import ReadCache
from chatflow.domain.reading.room_tails import RoomTails
from chatflow.ports.clock import Clock
from chatflow.ports.commit_feed import CommitFeed
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import (
    ActivityCursor,
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
T = TypeVar("T")


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
    """``MessageReader`` and ``Analytics`` over a store in memory.

    ``calls`` counts by method, ``error`` is raised by every method, and ``gate`` holds answers back after the rows
    were read, so that a test can commit in between.
    """

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.reader = MemoryStore(lambda: START_US, self.tables)
        self.analytics = MemoryAnalytics(self.tables)
        self.calls: Counter[str] = Counter()
        self.error: ChatflowError | Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def rows(self) -> list[StoredMessage]:
        return list(self.tables.rows)

    def add(self, room_id: str, *, user_id: int = 1, at_us: int | None = None, text: str = "hi") -> StoredMessage:
        number = len(self.tables.by_key)
        at = START_US + number * 1_000_000 if at_us is None else at_us
        message_id = f"01900000-0000-7000-8000-{number:012x}"
        return self.tables.insert(Message(message_id, room_id, user_id, f"user{user_id}", text, "TEXT", at - 5000, at))

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        return await self._enter("heads", self.reader.heads(room_ids))

    async def room_page(
        self, room_id: str, *, limit: int, before_seq: int | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        page = self.reader.room_page(room_id, limit=limit, before_seq=before_seq, window=window)
        return await self._enter("room_page", page)

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        return await self._enter("room_range", self.reader.room_range(room_id, after_seq=after_seq, limit=limit))

    async def user_page(
        self, user_id: int, *, limit: int, before: UserCursor | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        page = self.reader.user_page(user_id, limit=limit, before=before, window=window)
        return await self._enter("user_page", page)

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        return await self._enter("locate", self.reader.locate(keys))

    async def active_users(self, window: TimeWindow) -> int:
        return await self._enter("active_users", self.analytics.active_users(window))

    async def user_rooms(self, user_id: int, *, limit: int, after: ActivityCursor | None = None) -> list[UserRoom]:
        return await self._enter("user_rooms", self.analytics.user_rooms(user_id, limit=limit, after=after))

    async def throughput(self, limit: int) -> list[MinuteCount]:
        return await self._enter("throughput", self.analytics.throughput(limit))

    async def top_users(self, n: int) -> list[UserCount]:
        return await self._enter("top_users", self.analytics.top_users(n))

    async def top_rooms(self, n: int) -> list[RoomCount]:
        return await self._enter("top_rooms", self.analytics.top_rooms(n))

    async def patterns(self) -> list[HourCount]:
        return await self._enter("patterns", self.analytics.patterns())

    async def total_messages(self) -> int:
        return await self._enter("total_messages", self.analytics.total_messages())

    async def _enter(self, method: str, query: Awaitable[T]) -> T:
        self.calls[method] += 1
        answer = await query
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return answer


if TYPE_CHECKING:
    _reader: MessageReader = ListStore()
    _analytics: Analytics = ListStore()
