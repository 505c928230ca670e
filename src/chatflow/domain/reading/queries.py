"""What the read side can be asked: each question with its key, what invalidates its answer, and how to read it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs

from chatflow.domain.reading import cached_body as kept
from chatflow.domain.reading import cursors
from chatflow.domain.reading.answers import (
    ActiveUsers,
    Answer,
    Patterns,
    Throughput,
    TopRooms,
    TopUsers,
    Total,
    UserPage,
    UserRooms,
)
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.room_tails import NewestPage, PageEncoder, RoomTails
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


class AnswerEncoder(PageEncoder, Protocol):
    """Turns answers into the bytes that are cached and handed out."""

    def answer(self, answer: Answer) -> bytes:
        """Any answer but a room page."""


@attrs.frozen(eq=False)
class Question:
    """One read.

    Attributes:
        query: names the kind of question in counts.
        key: equal keys have equal answers.
        tags: what invalidates the answer.
        read: asks the store; the answer as caches keep it.
        newest: what is asked for, of the newest page of a room.
        min_head: an answer of a head below it is none.
        catch_up: waits until the store is not below ``min_head``; raises ``Behind`` after a while.
    """

    query: str
    key: str
    family: Family
    tags: tuple[str, ...]
    read: Callable[[], Awaitable[bytes]]
    newest: NewestPage | None = attrs.field(default=None, kw_only=True)
    min_head: int = attrs.field(default=0, kw_only=True)
    catch_up: Callable[[], Awaitable[None]] | None = attrs.field(default=None, kw_only=True)


@attrs.frozen(eq=False)
class Questions:
    """Makes them; nothing is read before somebody asks one.

    Attributes:
        tails: the newest messages of rooms, where they are kept.
        clock: monotonic seconds.
        sleep: waits that many seconds.
    """

    reader: MessageReader
    analytics: Analytics
    tails: RoomTails | None
    policy: CachePolicy = attrs.field(kw_only=True)
    encoder: AnswerEncoder = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)

    def room(
        self,
        room_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        window: TimeWindow | None = None,
        min_seq: int = 0,
    ) -> Question:
        """A page of a room, newest first, never of a head below ``min_seq``.

        Raises:
            InvalidCursor: not a cursor of this room.
        """
        before_seq = None if cursor is None else cursors.decode_room_cursor(cursor, room_id)
        family = Family.ROOM_NEWEST if before_seq is None else Family.ROOM_OLDER
        newest = None
        if before_seq is None and window is None and self.tails is not None:
            newest = NewestPage(room_id, self.policy.room_tag(room_id), limit)
        return Question(
            "room",
            f"room:{room_id}:{limit}:{_text(before_seq)}:{_span(window)}",
            family,
            self.policy.tags(family, room_id=room_id),
            lambda: self._read_room(room_id, limit, before_seq, window, newest),
            newest=newest,
            min_head=min_seq,
            catch_up=lambda: self._catch_up(room_id, min_seq),
        )

    def user(
        self, user_id: int, *, limit: int, cursor: str | None = None, window: TimeWindow | None = None
    ) -> Question:
        """A page of a user's history, newest first.

        Raises:
            InvalidCursor: not a cursor of this user.
        """
        before = None if cursor is None else cursors.decode_user_cursor(cursor, user_id)
        family = Family.USER_NEWEST if before is None else Family.USER_OLDER
        return Question(
            "user",
            f"user:{user_id}:{limit}:{cursor or ''}:{_span(window)}",
            family,
            self.policy.tags(family, user_id=user_id),
            lambda: self._read_user(user_id, limit, before, window),
        )

    def user_rooms(self, user_id: int) -> Question:
        """The rooms a user has written in."""

        async def read() -> UserRooms:
            return UserRooms(user_id, tuple(await self.analytics.user_rooms(user_id)))

        tags = self.policy.tags(Family.USER_NEWEST, user_id=user_id)
        return self._plain("user_rooms", f"user-rooms:{user_id}", Family.USER_NEWEST, read, tags)

    def active_users(self, window: TimeWindow) -> Question:
        """How many different users wrote in the window."""

        async def read() -> ActiveUsers:
            return ActiveUsers(window, await self.analytics.active_users(window))

        return self._plain("active", f"active:{_span(window)}", Family.ANALYTICS, read)

    def throughput(self, limit: int) -> Question:
        """Messages per minute."""

        async def read() -> Throughput:
            return Throughput(tuple(await self.analytics.throughput(limit)))

        return self._plain("throughput", f"throughput:{limit}", Family.ANALYTICS, read)

    def top_users(self, n: int) -> Question:
        """The users with most messages."""

        async def read() -> TopUsers:
            return TopUsers(n, tuple(await self.analytics.top_users(n)))

        return self._plain("top_users", f"top-users:{n}", Family.ANALYTICS, read)

    def top_rooms(self, n: int) -> Question:
        """The rooms with most messages."""

        async def read() -> TopRooms:
            return TopRooms(n, tuple(await self.analytics.top_rooms(n)))

        return self._plain("top_rooms", f"top-rooms:{n}", Family.ANALYTICS, read)

    def patterns(self) -> Question:
        """Messages by hour of the day."""

        async def read() -> Patterns:
            return Patterns(tuple(await self.analytics.patterns()))

        return self._plain("patterns", "patterns", Family.ANALYTICS, read)

    def total(self) -> Question:
        """How many messages there are."""

        async def read() -> Total:
            return Total(await self.analytics.total_messages())

        return self._plain("total", "total", Family.TOTAL, read)

    def _plain(
        self,
        query: str,
        key: str,
        family: Family,
        read: Callable[[], Awaitable[Answer]],
        tags: tuple[str, ...] = (),
    ) -> Question:
        async def read_and_encode() -> bytes:
            return self._packed(await read())

        return Question(query, key, family, tags, read_and_encode)

    async def _read_room(
        self, room_id: str, limit: int, before_seq: int | None, window: TimeWindow | None, newest: NewestPage | None
    ) -> bytes:
        if self.tails is not None and newest is not None:
            return await self.tails.read(self.reader, newest)
        rows = await self.reader.room_page(room_id, limit=limit + 1, before_seq=before_seq, window=window)
        page = rows[:limit]
        more = cursors.encode_room_cursor(room_id, page[-1].seq) if len(rows) > limit else None
        head = max(page[0].seq if page else 0, before_seq or 0)
        encoded = [self.encoder.row(stored) for stored in page]
        return kept.pack(self.encoder.room_page(room_id, limit, encoded, more), head)

    async def _read_user(self, user_id: int, limit: int, before: UserCursor | None, window: TimeWindow | None) -> bytes:
        rows = await self.reader.user_page(user_id, limit=limit + 1, before=before, window=window)
        page = tuple(rows[:limit])
        more = None
        if len(rows) > limit:
            last = page[-1]
            place = UserCursor(last.message.accepted_at_us, last.message.room_id, last.seq)
            more = cursors.encode_user_cursor(user_id, place)
        return self._packed(UserPage(user_id, limit, page, more))

    def _packed(self, answer: Answer) -> bytes:
        return kept.pack(self.encoder.answer(answer), head=0)

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
