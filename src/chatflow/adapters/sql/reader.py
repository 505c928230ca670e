"""Pages of rooms and users: each is one range scan in index order, except that a narrow window of a room is sorted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import Connection, Integer, and_, or_, select, text
from sqlalchemy import bindparam as param

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.json_rows import CompiledSelect, Row, chunks, fetch
from chatflow.adapters.sql.keyed import KeyedSelect
from chatflow.adapters.sql.schema import (
    MAX_SEQ,
    MAX_TIME_US,
    MAX_USER_ID,
    MIN_TIME_US,
    EpochMicros,
    messages,
    room_heads,
)
from chatflow.adapters.sql.sqlite.append import read_heads
from chatflow.ports.messages import Message, MessageKey, StoredMessage
from chatflow.ports.store import TimeWindow, UserCursor

_m = messages.c
_limit = param("limit", type_=Integer)
_in_window = _m.accepted_at.between(param("start", type_=EpochMicros), param("end", type_=EpochMicros))

ROOM_PAGE = CompiledSelect(
    select(messages)
    .where(_m.room_id == param("room"), _m.seq < param("before"), _in_window)
    .order_by(_m.room_id.desc(), _m.seq.desc())
    .limit(_limit)
)
_found = (
    select(_m.room_id, _m.seq)
    .with_hint(messages, "FORCE INDEX (ix_messages_accepted_user)", "mysql")
    .where(_m.room_id == param("room"), _m.seq < param("before"), _in_window)
    .order_by(_m.seq.desc())
    .limit(_limit)
    .subquery("found")
)
ROOM_PAGE_BY_TIME = CompiledSelect(
    select(messages).join(_found, and_(_m.room_id == _found.c.room_id, _m.seq == _found.c.seq)).order_by(_m.seq.desc())
)
"""The same page, found among all rooms' messages of the window in the index by time, which carries room and number."""

_by_time = "SELECT 1 FROM messages FORCE INDEX (ix_messages_accepted_user) WHERE accepted_at"
_by_room = "SELECT 1 FROM messages FORCE INDEX (PRIMARY) WHERE room_id = :room AND seq < :before"
ESTIMATES = text(
    f"EXPLAIN FORMAT=TRADITIONAL {_by_time} BETWEEN :start AND :end UNION ALL {_by_time} > :end UNION ALL {_by_room}"
).bindparams(param("start", type_=EpochMicros), param("end", type_=EpochMicros))
"""How many messages the optimizer guesses in the window and after it, of all rooms, and then in the room."""

FEW_ROWS = 100_000
BY_TIME_US, WALK_US = 0.3, 0.4
"""MariaDB's time for each row that it guesses: of the window in the index by time, or of the room on the way there."""

ROOM_RANGE = CompiledSelect(
    select(messages).where(_m.room_id == param("room"), _m.seq > param("after")).order_by(_m.seq).limit(_limit)
)
USER_PAGE = CompiledSelect(
    select(messages)
    .where(
        _m.user_id == param("user"),
        _in_window,
        or_(
            _m.accepted_at < param("at", type_=EpochMicros),
            _m.room_id < param("room"),
            and_(_m.room_id == param("room"), _m.seq < param("seq")),
        ),
    )
    .order_by(_m.accepted_at.desc(), _m.room_id.desc(), _m.seq.desc())
    .limit(_limit)
)
BY_KEY = KeyedSelect(select(messages))
NEWEST = UserCursor(accepted_at_us=MAX_TIME_US, room_id="~", seq=0)
"""After every row: room ids sort below a tilde."""
EVER = TimeWindow()


@attrs.frozen
class SqlMessageReader:
    """``MessageReader`` over the clustered key and the ``(user_id, accepted_at)`` index."""

    database: Database

    async def heads(self, room_ids: Sequence[str]) -> dict[str, int]:
        return await self.database.read(_heads, room_ids)

    async def room_page(
        self, room_id: str, *, limit: int, before_seq: int | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        start, end = bounds(window or EVER)
        before = MAX_SEQ if before_seq is None else clamped(before_seq, 0, MAX_SEQ)
        params = {"room": room_id, "before": before, "start": start, "end": end, "limit": max(limit, 0)}
        by_time = window is not None and self.database.dialect == "mysql"
        return await self.database.read(_windowed_page if by_time else _page, ROOM_PAGE, params)

    async def room_range(self, room_id: str, *, after_seq: int, limit: int) -> list[StoredMessage]:
        params = {"room": room_id, "after": clamped(after_seq, 0, MAX_SEQ), "limit": max(limit, 0)}
        return await self.database.read(_page, ROOM_RANGE, params)

    async def user_page(
        self, user_id: int, *, limit: int, before: UserCursor | None = None, window: TimeWindow | None = None
    ) -> list[StoredMessage]:
        cursor = before or NEWEST
        at = clamped(cursor.accepted_at_us, MIN_TIME_US, MAX_TIME_US)
        start, end = bounds(window or EVER)
        params = {
            "user": clamped(user_id, 0, MAX_USER_ID + 1),
            "start": start,
            "end": min(end, at),
            "at": at,
            "room": cursor.room_id,
            "seq": clamped(cursor.seq, 0, MAX_SEQ),
            "limit": max(limit, 0),
        }
        return await self.database.read(_page, USER_PAGE, params)

    async def locate(self, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
        return await self.database.read(locate, keys)


def locate(conn: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, StoredMessage]:
    """The stored messages among these; what cannot be a key is not stored."""
    return {stored.message.key: stored for stored in map(stored_message, BY_KEY.rows(conn, keys))}


def stored_message(row: Row) -> StoredMessage:
    """The value of one row of ``messages``."""
    room_id, seq, message_id, user_id, username, message_type, content, sent_at, accepted_at, server_id, client_ip = row
    message = Message(
        message_id, room_id, user_id, username, content, message_type, sent_at, accepted_at, server_id, client_ip
    )
    return StoredMessage(message, seq)


def bounds(window: TimeWindow) -> tuple[int, int]:
    """Both ends of the window, clamped to what the columns can hold."""
    start = MIN_TIME_US if window.start_us is None else clamped(window.start_us, MIN_TIME_US, MAX_TIME_US)
    end = MAX_TIME_US if window.end_us is None else clamped(window.end_us, MIN_TIME_US, MAX_TIME_US)
    return start, end


def clamped(value: int, low: int, high: int) -> int:
    """The number, clamped to what its column can hold; a request may carry any."""
    return min(max(value, low), high)


def _page(conn: Connection, query: CompiledSelect, params: dict[str, object]) -> list[StoredMessage]:
    return [stored_message(row) for row in query.rows(conn, **params)]


def _windowed_page(conn: Connection, walk: CompiledSelect, params: dict[str, object]) -> list[StoredMessage]:
    """Search the window by time where that beats walking down the room; the optimizer would always walk."""
    guesses = conn.execute(ESTIMATES, params).mappings().all()
    within, after, of_room = (int(guess["rows"] or 0) for guess in guesses[:3])
    passed = of_room * after / max(within + after, 1)
    by_time = within <= FEW_ROWS or within * BY_TIME_US <= passed * WALK_US
    return _page(conn, ROOM_PAGE_BY_TIME if by_time else walk, params)


def _heads(conn: Connection, room_ids: Sequence[str]) -> dict[str, int]:
    if conn.dialect.name == "sqlite":
        return {room_id: last_seq for room_id, last_seq in read_heads(conn, room_ids).items() if last_seq > 0}
    heads: dict[str, int] = {}
    for chunk in chunks(room_ids):
        known = select(room_heads).where(room_heads.c.room_id.in_(chunk), room_heads.c.last_seq > 0)
        heads.update((room_id, last_seq) for room_id, last_seq in fetch(conn, known))
    return heads


if TYPE_CHECKING:
    from chatflow.ports.store import MessageReader

    _: type[MessageReader] = SqlMessageReader
