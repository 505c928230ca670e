"""Answer every question of the read side, through the cache where there is one.

* The tags' version is read before the store is, and a value is kept under that version only: a commit in between
  makes it a value that nobody accepts.
* The cache never fails a question: down or slow, the store answers.
* ``min_seq``: a room page is never read from behind it; the cache is passed over until the room has caught up.
* What is cached is the encoded answer, so a hit costs no decoding.
"""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain import cursors
from chatflow.domain.answers import (
    ActiveUsers,
    Answer,
    Answered,
    Everything,
    Patterns,
    RoomPage,
    Throughput,
    TopRooms,
    TopUsers,
    Total,
    UserPage,
    UserRooms,
)
from chatflow.domain.cache_policy import CachePolicy, Family
from chatflow.domain.fetching import Fetcher, Question
from chatflow.domain.figures import QueryFigures
from chatflow.domain.near_cache import NearCache
from chatflow.domain.read_through import ReadThrough
from chatflow.domain.room_tails import RoomTails
from chatflow.ports.cache import Cache, Leases
from chatflow.ports.clock import Clock
from chatflow.ports.errors import Refusal
from chatflow.ports.store import Analytics, MessageReader, TimeWindow, UserCursor

POLL_S = 0.01
"""Between two looks at a head that is behind."""

PATIENCE_S = 0.5
"""How long a question waits for a head that is behind."""


class Behind(Refusal):
    """The room has not got as far as the reader, even after waiting.

    Attributes:
        head: the room's last ``seq``.
    """

    def __init__(self, room_id: str, *, min_seq: int, head: int) -> None:
        self.head = head
        super().__init__(f"room {room_id} is at seq {head}, behind minSeq {min_seq}")


@attrs.define(eq=False)
class QueryService:
    """The use case of the role ``api``; close it to stop refreshes that run on their own.

    Every question raises ``StoreUnavailable``, ``StoreOverloaded`` or ``QueryTimeout`` when the store has to answer
    and cannot.

    Attributes:
        near: what this process keeps; ``None``: nothing, not even the newest messages of rooms.
        cache: what is shared with other processes; ``None``: nothing.
        leases: over the processes that share the cache; ``None``: each reads for itself.
        uncached_limit: reads at one time while the shared cache is out of reach; the next is ``StoreOverloaded``.
        encode: turns an answer into the bytes that are cached and handed out.
        clock: monotonic seconds.
        sleep: waits that many seconds.
        draw: a uniform random number in ``[0, 1)``, for early refresh.
    """

    reader: MessageReader
    analytics: Analytics
    near: NearCache | None = attrs.field(kw_only=True, default=None)
    cache: Cache | None = attrs.field(kw_only=True)
    leases: Leases | None = attrs.field(kw_only=True, default=None)
    uncached_limit: int = attrs.field(kw_only=True, default=50)
    encode: Callable[[Answer], bytes] = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    draw: Callable[[], float] = attrs.field(kw_only=True)
    policy: CachePolicy = attrs.field(kw_only=True, factory=CachePolicy)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    _tier: ReadThrough = attrs.field(init=False)
    _tails: RoomTails | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tails = None if self.near is None else RoomTails(self.reader, self.clock)
        fetcher = Fetcher(
            self.near,
            self.cache,
            self.leases,
            policy=self.policy,
            encode=self.encode,
            clock=self.clock,
            sleep=self.sleep,
            uncached_limit=self.uncached_limit,
        )
        self._tier = ReadThrough(fetcher, draw=self.draw)

    @property
    def figures(self) -> QueryFigures:
        """Counts since start."""
        return self._tier.figures

    async def close(self) -> None:
        """Stop every refresh under way."""
        await self._tier.close()

    async def room_page(
        self,
        room_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        window: TimeWindow | None = None,
        min_seq: int = 0,
    ) -> Answered:
        """A page of a room, newest first.

        Raises:
            InvalidCursor: not a cursor of this room.
            Behind: the room's head stays below ``min_seq`` for half a second.
        """
        before_seq = None if cursor is None else cursors.decode_room_cursor(cursor, room_id)
        family = Family.ROOM_NEWEST if before_seq is None else Family.ROOM_OLDER
        question = Question(
            "room",
            f"room:{room_id}:{limit}:{_text(before_seq)}:{_span(window)}",
            family,
            self.policy.tags(family, room_id=room_id),
            lambda: self._read_room(room_id, limit, before_seq, window),
        )
        if min_seq <= 0:
            return await self._tier.ask(question)
        return await self._tier.ask_from(question, min_seq, lambda: self._catch_up(room_id, min_seq))

    async def user_page(
        self, user_id: int, *, limit: int, cursor: str | None = None, window: TimeWindow | None = None
    ) -> Answered:
        """A page of a user's history, newest first.

        Raises:
            InvalidCursor: not a cursor of this user.
        """
        before = None if cursor is None else cursors.decode_user_cursor(cursor, user_id)
        family = Family.USER_NEWEST if before is None else Family.USER_OLDER
        question = Question(
            "user",
            f"user:{user_id}:{limit}:{cursor or ''}:{_span(window)}",
            family,
            self.policy.tags(family, user_id=user_id),
            lambda: self._read_user(user_id, limit, before, window),
        )
        return await self._tier.ask(question)

    async def active_users(self, window: TimeWindow) -> Answered:
        """How many different users wrote in the window."""

        async def read() -> ActiveUsers:
            return ActiveUsers(window, await self.analytics.active_users(window))

        return await self._tier.ask(Question("active", f"active:{_span(window)}", Family.ANALYTICS, (), read))

    async def user_rooms(self, user_id: int) -> Answered:
        """The rooms a user has written in."""

        async def read() -> UserRooms:
            return UserRooms(user_id, tuple(await self.analytics.user_rooms(user_id)))

        family = Family.USER_NEWEST
        tags = self.policy.tags(family, user_id=user_id)
        return await self._tier.ask(Question("user_rooms", f"user-rooms:{user_id}", family, tags, read))

    async def throughput(self, limit: int) -> Answered:
        """Messages per minute."""

        async def read() -> Throughput:
            return Throughput(tuple(await self.analytics.throughput(limit)))

        return await self._tier.ask(Question("throughput", f"throughput:{limit}", Family.ANALYTICS, (), read))

    async def top_users(self, n: int) -> Answered:
        """The users with most messages."""

        async def read() -> TopUsers:
            return TopUsers(n, tuple(await self.analytics.top_users(n)))

        return await self._tier.ask(Question("top_users", f"top-users:{n}", Family.ANALYTICS, (), read))

    async def top_rooms(self, n: int) -> Answered:
        """The rooms with most messages."""

        async def read() -> TopRooms:
            return TopRooms(n, tuple(await self.analytics.top_rooms(n)))

        return await self._tier.ask(Question("top_rooms", f"top-rooms:{n}", Family.ANALYTICS, (), read))

    async def patterns(self) -> Answered:
        """Messages by hour of the day."""

        async def read() -> Patterns:
            return Patterns(tuple(await self.analytics.patterns()))

        return await self._tier.ask(Question("patterns", "patterns", Family.ANALYTICS, (), read))

    async def total(self) -> Answered:
        """How many messages there are."""

        async def read() -> Total:
            return Total(await self.analytics.total_messages())

        return await self._tier.ask(Question("total", "total", Family.TOTAL, (), read))

    async def everything(self, *, room_id: str, user_id: int, limit: int, n: int, minutes: int) -> Everything:
        """Every question once, one after the other: one caller never takes more than one reader."""
        return Everything(
            room=await self.room_page(room_id, limit=limit),
            user=await self.user_page(user_id, limit=limit),
            active=await self.active_users(TimeWindow()),
            user_rooms=await self.user_rooms(user_id),
            throughput=await self.throughput(minutes),
            top_users=await self.top_users(n),
            top_rooms=await self.top_rooms(n),
            patterns=await self.patterns(),
            total=await self.total(),
        )

    async def _read_room(self, room_id: str, limit: int, before_seq: int | None, window: TimeWindow | None) -> RoomPage:
        if self._tails is not None and before_seq is None and window is None:
            rows = await self._tails.newest(room_id, limit + 1)
        else:
            rows = await self.reader.room_page(room_id, limit=limit + 1, before_seq=before_seq, window=window)
        page = tuple(rows[:limit])
        more = cursors.encode_room_cursor(room_id, page[-1].seq) if len(rows) > limit else None
        head = max(page[0].seq if page else 0, before_seq or 0)
        return RoomPage(room_id, limit, page, more, head)

    async def _read_user(
        self, user_id: int, limit: int, before: UserCursor | None, window: TimeWindow | None
    ) -> UserPage:
        rows = await self.reader.user_page(user_id, limit=limit + 1, before=before, window=window)
        page = tuple(rows[:limit])
        more = None
        if len(rows) > limit:
            last = page[-1]
            place = UserCursor(last.message.accepted_at_us, last.message.room_id, last.seq)
            more = cursors.encode_user_cursor(user_id, place)
        return UserPage(user_id, limit, page, more)

    async def _catch_up(self, room_id: str, min_seq: int) -> None:
        deadline = self.clock() + PATIENCE_S
        while True:
            head = (await self.reader.heads([room_id])).get(room_id, 0)
            if head >= min_seq:
                return
            if self.clock() >= deadline:
                raise Behind(room_id, min_seq=min_seq, head=head)
            await self.sleep(POLL_S)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _span(window: TimeWindow | None) -> str:
    return "" if window is None else f"{_text(window.start_us)}..{_text(window.end_us)}"
