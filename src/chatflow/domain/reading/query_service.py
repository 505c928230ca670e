"""The use case of the read side: build a query, answer it through the caches.

``min_seq`` is read-your-writes for room pages: no answer is from before that ``seq``, whatever a cache holds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import attrs

from chatflow.domain.reading import cursors
from chatflow.domain.reading.answers import (
    ActiveUsers,
    Answer,
    Answered,
    Patterns,
    RoomPage,
    Throughput,
    Tier,
    TopRooms,
    TopUsers,
    Total,
    UserPage,
    UserRooms,
)
from chatflow.domain.reading.cache_policy import Family
from chatflow.domain.reading.query import Query, Reading
from chatflow.domain.reading.read_cache import ReadCache
from chatflow.domain.reading.room_tails import NewestPage
from chatflow.ports.clock import Clock
from chatflow.ports.errors import Refusal
from chatflow.ports.messages import StoredMessage
from chatflow.ports.store import ActivityCursor, Analytics, MessageReader, TimeWindow, UserCursor, UserRoom

POLL_S = 0.01
"""Between two looks at a head that is behind."""

PATIENCE_S = 0.5
"""How long a query waits for a head that is behind."""


class Behind(Refusal):
    """The room's head is still below the reader's ``min_seq`` after waiting.

    Attributes:
        head: the room's last ``seq``.
    """

    def __init__(self, room_id: str, *, min_seq: int, head: int) -> None:
        self.head = head
        super().__init__(f"room {room_id} is at seq {head}, behind minSeq {min_seq}")


@attrs.define(eq=False)
class QueryService:
    """One method per kind of query, which reads nothing yet, and two that answer a query.

    Attributes:
        cache: whoever closes the service closes it.
        encode: turns answers into the bytes that are cached and sent; the edge's.
        clock: monotonic seconds.
        sleep: waits that many seconds.
    """

    reader: MessageReader
    analytics: Analytics
    cache: ReadCache
    encode: Callable[[Answer], bytes] = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)

    async def answer(self, query: Query) -> Answered:
        """The answer.

        Raises:
            StoreUnavailable, StoreOverloaded, QueryTimeout: the store has to answer and cannot.
            Behind: of a room page, the head stays below ``min_seq`` for half a second.
        """
        started = self.clock()
        value, source = await self.cache.get(query)
        return self._answered(query, value, source, started)

    def answer_locally(self, query: Query) -> Answered | None:
        """The answer if the local cache has it; never waits."""
        started = self.clock()
        value = self.cache.peek(query)
        return None if value is None else self._answered(query, value, Tier.LOCAL, started)

    def _answered(self, query: Query, value: bytes, source: Tier, started: float) -> Answered:
        took_s, metrics = self.clock() - started, self.cache.metrics
        metrics.answers[query.name, source] += 1
        metrics.took_s[query.name].observe(took_s)
        return Answered(value, source, took_s)

    def room(
        self,
        room_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        window: TimeWindow | None = None,
        min_seq: int = 0,
    ) -> Query:
        """A page of a room, newest first, never of a head below ``min_seq``.

        Raises:
            InvalidCursor: not a cursor of this room.
        """
        before_seq = None if cursor is None else cursors.decode_room_cursor(cursor, room_id)
        family = Family.ROOM_NEWEST if before_seq is None else Family.ROOM_OLDER
        cache, reader = self.cache, self.reader
        tags = cache.policy.tags(family, room_id=room_id)
        read: Callable[[], Awaitable[Reading]]
        if cache.local is not None and before_seq is None and window is None:
            tails, page = cache.local.tails, NewestPage(room_id, tags[0], limit)
            read, at_hand = lambda: tails.read(reader, page), lambda: tails.page(page)
        else:
            read, at_hand = lambda: self._read_room(room_id, limit, before_seq, window), None
        return Query(
            "room",
            f"room:{room_id}:{limit}:{_text(before_seq)}:{_span(window)}",
            family,
            tags,
            read,
            at_hand=at_hand,
            min_head=min_seq,
            catch_up=(lambda: self._catch_up(room_id, min_seq)) if min_seq else None,
        )

    def user(self, user_id: int, *, limit: int, cursor: str | None = None, window: TimeWindow | None = None) -> Query:
        """A page of a user's history, newest first.

        Raises:
            InvalidCursor: not a cursor of this user.
        """
        before = None if cursor is None else cursors.decode_user_cursor(cursor, user_id)
        family = Family.USER_NEWEST if before is None else Family.USER_OLDER

        async def read() -> UserPage:
            rows = await self.reader.user_page(user_id, limit=limit + 1, before=before, window=window)
            page = tuple(rows[:limit])
            more = cursors.encode_user_cursor(user_id, _place_of(page[-1])) if len(rows) > limit else None
            return UserPage(user_id, limit, page, more)

        tags = self.cache.policy.tags(family, user_id=user_id)
        return self._query("user", f"user:{user_id}:{limit}:{cursor or ''}:{_span(window)}", family, read, tags)

    def user_rooms(self, user_id: int, *, limit: int, cursor: str | None = None) -> Query:
        """A page of the rooms a user has written in.

        Raises:
            InvalidCursor: not a cursor of this user's rooms.
        """
        after = None if cursor is None else cursors.decode_activity_cursor(cursor, user_id)
        family = Family.USER_NEWEST if after is None else Family.USER_OLDER

        async def read() -> UserRooms:
            rows = await self.analytics.user_rooms(user_id, limit=limit + 1, after=after)
            page = tuple(rows[:limit])
            more = cursors.encode_activity_cursor(user_id, _place_among(page)) if len(rows) > limit else None
            return UserRooms(user_id, limit, page, more)

        tags = self.cache.policy.tags(family, user_id=user_id)
        return self._query("user_rooms", f"user-rooms:{user_id}:{limit}:{cursor or ''}", family, read, tags)

    def active_users(self, window: TimeWindow) -> Query:
        """How many different users wrote in the window."""

        async def read() -> ActiveUsers:
            return ActiveUsers(window, await self.analytics.active_users(window))

        return self._query("active", f"active:{_span(window)}", Family.ANALYTICS, read)

    def throughput(self, limit: int) -> Query:
        """Messages per minute, of the latest ``limit`` minutes that have any."""

        async def read() -> Throughput:
            return Throughput(limit, tuple(await self.analytics.throughput(limit)))

        return self._query("throughput", f"throughput:{limit}", Family.ANALYTICS, read)

    def top_users(self, n: int) -> Query:
        """The users with most messages."""

        async def read() -> TopUsers:
            return TopUsers(n, tuple(await self.analytics.top_users(n)))

        return self._query("top_users", f"top-users:{n}", Family.ANALYTICS, read)

    def top_rooms(self, n: int) -> Query:
        """The rooms with most messages."""

        async def read() -> TopRooms:
            return TopRooms(n, tuple(await self.analytics.top_rooms(n)))

        return self._query("top_rooms", f"top-rooms:{n}", Family.ANALYTICS, read)

    def patterns(self) -> Query:
        """Messages by hour of the day."""

        async def read() -> Patterns:
            return Patterns(tuple(await self.analytics.patterns()))

        return self._query("patterns", "patterns", Family.ANALYTICS, read)

    def total(self) -> Query:
        """How many messages there are."""

        async def read() -> Total:
            return Total(await self.analytics.total_messages())

        return self._query("total", "total", Family.TOTAL, read)

    def _query(
        self, name: str, key: str, family: Family, read: Callable[[], Awaitable[Answer]], tags: tuple[str, ...] = ()
    ) -> Query:
        async def read_and_encode() -> Reading:
            return Reading(self.encode(await read()))

        return Query(name, key, family, tags, read_and_encode)

    async def _read_room(self, room_id: str, limit: int, before_seq: int | None, window: TimeWindow | None) -> Reading:
        rows = await self.reader.room_page(room_id, limit=limit + 1, before_seq=before_seq, window=window)
        page = rows[:limit]
        more = cursors.encode_room_cursor(room_id, page[-1].seq) if len(rows) > limit else None
        head = max(page[0].seq if page else 0, before_seq or 0)
        return Reading(self.encode(RoomPage(room_id, limit, page, more)), head)

    async def _catch_up(self, room_id: str, min_seq: int) -> None:
        deadline = self.clock() + PATIENCE_S
        while True:
            head = (await self.reader.heads([room_id])).get(room_id, 0)
            if head >= min_seq:
                return
            if self.clock() >= deadline:
                raise Behind(room_id, min_seq=min_seq, head=head)
            await self.sleep(POLL_S)


def _place_of(stored: StoredMessage) -> UserCursor:
    return UserCursor(stored.message.accepted_at_us, stored.message.room_id, stored.seq)


def _place_among(rooms: Sequence[UserRoom]) -> ActivityCursor:
    return ActivityCursor(rooms[-1].last_activity_us, rooms[-1].room_id)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _span(window: TimeWindow | None) -> str:
    return "" if window is None else f"{_text(window.start_us)}..{_text(window.end_us)}"
