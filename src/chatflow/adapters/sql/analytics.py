"""Two ways of counting that must agree: compute from the messages (B0, O1), or read summary tables (O2, O12)."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    and_,
    case,
    distinct,
    extract,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy import bindparam as param

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.json_rows import CompiledSelect, Row
from chatflow.adapters.sql.reader import bounds, clamped
from chatflow.adapters.sql.schema import (
    MAX_TIME_US,
    MAX_USER_ID,
    MIN_TIME_US,
    EpochMicros,
    messages,
    room_message_summary,
    user_message_summary,
    user_room_summary,
)
from chatflow.ports.store import ActivityCursor, HourCount, MinuteCount, RoomCount, TimeWindow, UserCount, UserRoom

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
FIRST = ActivityCursor(MAX_TIME_US, "")
"""Before every room."""

_m = messages.c
_start = param("start", type_=EpochMicros)
_end = param("end", type_=EpochMicros)
_limit = param("limit", type_=Integer)
_user = param("user", type_=BigInteger)


@attrs.frozen
class ComputedAnalytics:
    """``Analytics`` that counts messages on each query, over covering indexes."""

    database: Database

    async def active_users(self, window: TimeWindow) -> int:
        start, end = bounds(window)
        return await self._number(ACTIVE_USERS, start=start, end=end)

    async def user_rooms(self, user_id: int, *, limit: int, after: ActivityCursor | None = None) -> list[UserRoom]:
        return [UserRoom(*row) for row in await self._rows(USER_ROOMS, **_page_of(user_id, limit, after))]

    async def throughput(self, limit: int) -> list[MinuteCount]:
        if limit <= 0:
            return []
        if self.database.dialect == "mysql":
            return await self.database.read(minutes_on_mysql, limit)
        return [MinuteCount(*row) for row in await self._rows(MINUTES, limit=limit)]

    async def top_users(self, n: int) -> list[UserCount]:
        return [UserCount(*row) for row in await self._rows(TOP_USERS, limit=max(n, 0))]

    async def top_rooms(self, n: int) -> list[RoomCount]:
        return [RoomCount(*row) for row in await self._rows(TOP_ROOMS, limit=max(n, 0))]

    async def patterns(self) -> list[HourCount]:
        return [HourCount(*row) for row in await self._rows(hours(self.database.dialect))]

    async def total_messages(self) -> int:
        return await self._number(TOTAL)

    async def _rows(self, query: CompiledSelect, **params: object) -> Sequence[Row]:
        return await self.database.read(_rows_of, query, params)

    async def _number(self, query: CompiledSelect, **params: object) -> int:
        return int((await self._rows(query, **params))[0][0])


@attrs.frozen
class SummaryAnalytics(ComputedAnalytics):
    """``Analytics`` from summary tables where they hold the answer: cost grows with users and rooms, not messages."""

    async def active_users(self, window: TimeWindow) -> int:
        start, end = bounds(window)
        return await self._number(ACTIVE_USERS_SUMMED, start=start, end=end)

    async def user_rooms(self, user_id: int, *, limit: int, after: ActivityCursor | None = None) -> list[UserRoom]:
        return [UserRoom(*row) for row in await self._rows(USER_ROOMS_SUMMED, **_page_of(user_id, limit, after))]

    async def top_users(self, n: int) -> list[UserCount]:
        return [UserCount(*row) for row in await self._rows(TOP_USERS_SUMMED, limit=max(n, 0))]

    async def top_rooms(self, n: int) -> list[RoomCount]:
        return [RoomCount(*row) for row in await self._rows(TOP_ROOMS_SUMMED, limit=max(n, 0))]

    async def total_messages(self) -> int:
        return await self._number(TOTAL_SUMMED)


def _rows_of(conn: Connection, query: CompiledSelect, params: dict[str, object]) -> Sequence[Row]:
    return query.rows(conn, **params)


def _page_of(user_id: int, limit: int, after: ActivityCursor | None) -> dict[str, object]:
    place = after or FIRST
    at = clamped(place.last_activity_us, MIN_TIME_US, MAX_TIME_US)
    return {"user": clamped(user_id, 0, MAX_USER_ID + 1), "limit": max(limit, 0), "at": at, "room": place.room_id}


def _active_users() -> Select[Any]:
    """Count users by their first message in the window: for a wide window MariaDB needs one index dive per user.

    It reads the window in the index by time when that is cheaper (manual, "Loose Index Scan": needs the minimum).
    """
    first = func.min(_m.accepted_at).label("first")
    active = select(_m.user_id, first).where(_m.accepted_at.between(_start, _end)).group_by(_m.user_id)
    return select(func.count().label("users")).select_from(active.subquery("active"))


def _active_users_summed() -> Select[Any]:
    """If no message is newer than the window, every user last seen after its start was active in it."""
    newest = select(func.max(_m.accepted_at)).scalar_subquery()
    seen_since = select(func.count()).where(user_message_summary.c.last_seen >= _start).scalar_subquery()
    return select(case((newest <= _end, seen_since), else_=_active_users().scalar_subquery()).label("users"))


def _top_users() -> Select[Any]:
    total = func.count().label("total")
    top = select(_m.user_id, total).group_by(_m.user_id).order_by(total.desc(), _m.user_id).limit(_limit).subquery()
    theirs = messages.alias("theirs")
    username: ScalarSelect[str] = (
        select(theirs.c.username)
        .where(theirs.c.user_id == top.c.user_id)
        .order_by(theirs.c.accepted_at.desc(), theirs.c.username.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(top.c.user_id, username.label("username"), top.c.total).order_by(top.c.total.desc(), top.c.user_id)


def _top_rooms() -> Select[Any]:
    total, users = func.count().label("total"), func.count(distinct(_m.user_id)).label("users")
    counted = select(_m.room_id, total, users).group_by(_m.room_id)
    return counted.order_by(total.desc(), _m.room_id).limit(_limit)


def _user_rooms() -> Select[Any]:
    latest = func.max(_m.accepted_at).label("latest")
    counted = select(_m.room_id, latest, func.count().label("total")).where(_m.user_id == _user)
    later = _is_after(func.max(_m.accepted_at), _m.room_id)
    return counted.group_by(_m.room_id).having(later).order_by(latest.desc(), _m.room_id).limit(_limit)


def _user_rooms_summed() -> Select[Any]:
    c = user_room_summary.c
    known = select(c.room_id, c.last_activity, c.message_count).where(c.user_id == _user)
    later = _is_after(c.last_activity, c.room_id)
    return known.where(later).order_by(c.last_activity.desc(), c.room_id).limit(_limit)


def _is_after(activity: ColumnElement[int], room_id: ColumnElement[str]) -> ColumnElement[bool]:
    at = param("at", type_=EpochMicros)
    return or_(activity < at, and_(activity == at, room_id > param("room")))


def _top_users_summed() -> Select[Any]:
    c = user_message_summary.c
    known = select(c.user_id, c.username, c.total_messages)
    return known.order_by(c.total_messages.desc(), c.user_id).limit(_limit)


def _top_rooms_summed() -> Select[Any]:
    c = room_message_summary.c
    known = select(c.room_id, c.total_messages, c.unique_users)
    return known.order_by(c.total_messages.desc(), c.room_id).limit(_limit)


ACTIVE_USERS = CompiledSelect(_active_users())
ACTIVE_USERS_SUMMED = CompiledSelect(_active_users_summed())
USER_ROOMS = CompiledSelect(_user_rooms())
USER_ROOMS_SUMMED = CompiledSelect(_user_rooms_summed())
TOP_USERS = CompiledSelect(_top_users())
TOP_USERS_SUMMED = CompiledSelect(_top_users_summed())
TOP_ROOMS = CompiledSelect(_top_rooms())
TOP_ROOMS_SUMMED = CompiledSelect(_top_rooms_summed())
TOTAL = CompiledSelect(select(func.count().label("total")).select_from(messages))
TOTAL_SUMMED = CompiledSelect(select(func.coalesce(func.sum(room_message_summary.c.total_messages), 0).label("total")))


def _minutes() -> Select[Any]:
    """Step from one minute with messages to the next older one, so that old history is never read."""
    newest = select(func.max(_m.accepted_at)).scalar_subquery()
    walk = select(_minute_of(newest).label("minute"), literal_column("1").label("n")).cte("walk", recursive=True)
    older = select(func.max(_m.accepted_at)).where(_m.accepted_at < walk.c.minute).scalar_subquery()
    step = select(_minute_of(older), walk.c.n + literal_column("1"))
    walk = walk.union_all(step.where(walk.c.minute.is_not(None), walk.c.n < _limit))
    within = _m.accepted_at >= walk.c.minute, _m.accepted_at < walk.c.minute + literal_column(str(MINUTE_US))
    counted = select(func.count()).select_from(messages).where(*within).scalar_subquery()
    known = select(walk.c.minute.label("minute_us"), counted.label("total")).where(walk.c.minute.is_not(None))
    return known.order_by(walk.c.minute.desc())


def _minute_of(moment: Any) -> ColumnElement[Any]:
    minute: ColumnElement[Any] = moment.op("/")(literal_column(str(MINUTE_US))).op("*")(literal_column(str(MINUTE_US)))
    return minute


MINUTES = CompiledSelect(_minutes())
"""For SQLite; MariaDB would read the whole index at every step."""

_minute = func.timestampdiff(literal_column("MINUTE"), literal_column("'1970-01-01'"), _m.accepted_at).label("minute")
BEFORE = select(func.max(_m.accepted_at)).where(_m.accepted_at < _end)
PER_MINUTE = (
    select(_minute, func.count())
    .where(_m.accepted_at >= _start, _m.accepted_at < _end)
    .group_by(_minute)
    .order_by(_minute.desc())
)


def minutes_on_mysql(conn: Connection, limit: int) -> list[MinuteCount]:
    """The same for MySQL: read as many minutes as are still wanted at once, then skip the silence before them."""
    found: list[MinuteCount] = []
    end = MAX_TIME_US
    while len(found) < limit and (newest := conn.execute(BEFORE, {"end": end}).scalar_one()) is not None:
        start = (newest // MINUTE_US - (limit - len(found) - 1)) * MINUTE_US
        window = {"start": max(start, 0), "end": newest + 1}
        found += [MinuteCount(minute * MINUTE_US, count) for minute, count in conn.execute(PER_MINUTE, window)]
        end = window["start"]
    return found


@cache
def hours(dialect: str) -> CompiledSelect:
    """Group everything by hour of the day."""
    hour = _hour_of(dialect, _m.accepted_at).label("hour")
    columns: list[ColumnElement[Any]] = [hour, func.count().label("total")]
    columns.append(func.count(distinct(_m.user_id)).label("users"))
    return CompiledSelect(select(*columns).group_by(hour).order_by(hour))


def _hour_of(dialect: str, moment: ColumnElement[int]) -> ColumnElement[int]:
    if dialect == "mysql":
        return extract("hour", moment)
    return moment.op("/")(literal_column(str(HOUR_US))).op("%")(literal_column("24"))


if TYPE_CHECKING:
    from chatflow.ports.store import Analytics

    _computed: type[Analytics] = ComputedAnalytics
    _summed: type[Analytics] = SummaryAnalytics
