"""What heads and summaries should hold, and where they differ.

Each table is compared in one pass over its recount, in the order of its key: missing and wrong rows are counted there,
and rows too many show as a difference of two counts. Only what is wrong is looked for one by one. No comparison looks a
row up by anything but a prefix of a key, so that no shape of the data makes it quadratic.
"""

from collections.abc import Callable
from typing import Any

import attrs
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Table,
    and_,
    case,
    distinct,
    func,
    literal_column,
    or_,
    select,
    true,
)

from chatflow.adapters.sql.json_rows import Row, fetch
from chatflow.adapters.sql.schema import (
    messages,
    room_heads,
    room_message_summary,
    user_message_summary,
    user_room_summary,
)
from chatflow.ports.store import Finding

NOTHING = "nothing"

_m = messages.c


@attrs.frozen
class Recount:
    """One table and what it should hold.

    Attributes:
        check: the name of its findings.
        title: what people call it.
        recounted: a row per key that has messages, with the names of the table's columns.
        counts: the rows of the table that must have messages.
    """

    check: str
    title: str
    table: Table
    recounted: Callable[[], Subquery]
    counts: ColumnElement[bool] = attrs.field(factory=true)

    @property
    def keys(self) -> list[str]:
        """Columns of the primary key."""
        return [column.name for column in self.table.primary_key]

    @property
    def values(self) -> list[str]:
        """The other columns."""
        return [column.name for column in self.table.columns if not column.primary_key]


def _heads() -> Subquery:
    return select(_m.room_id, func.max(_m.seq).label("last_seq")).group_by(_m.room_id).subquery("recount")


def _rooms() -> Subquery:
    users = func.count(distinct(_m.user_id)).label("unique_users")
    counted = select(_m.room_id, func.count().label("total_messages"), users, _latest("last_activity"))
    return counted.group_by(_m.room_id).subquery("recount")


def _users() -> Subquery:
    """The counts from the index alone, in its order; the name from the latest message, the greatest of several.

    The limit, which is none, keeps MariaDB from pushing conditions past the name, where it does not find its columns.
    """
    counted = select(_m.user_id, func.count().label("total_messages"), _latest("last_seen"))
    user = _sorted(counted.group_by(_m.user_id)).subquery("counted")
    theirs = messages.alias("theirs")
    latest = theirs.c.user_id == user.c.user_id, theirs.c.accepted_at == user.c.last_seen
    name = select(func.max(theirs.c.username)).where(*latest).scalar_subquery().label("username")
    named = select(user.c.user_id, name, user.c.total_messages, user.c.last_seen)
    return named.limit(literal_column(str(2**62))).subquery("recount")


def _pairs() -> Subquery:
    counted = select(_m.user_id, _m.room_id, func.count().label("message_count"), _latest("last_activity"))
    return _sorted(counted.group_by(_m.user_id, _m.room_id)).subquery("recount")


def _sorted(groups: Select[Any]) -> Select[Any]:
    """Where MariaDB would look up each row's group in a table, which takes ten times as long for many groups."""
    return groups.prefix_with("SQL_BIG_RESULT", dialect="mysql")


def _latest(name: str) -> ColumnElement[int]:
    return func.max(_m.accepted_at).label(name)


HEAD = Recount("head", "heads", room_heads, _heads, room_heads.c.last_seq != 0)
"""A head at 0 is right for a room without messages."""

SUMMARIES = (
    Recount("room_summary", "summaries of rooms", room_message_summary, _rooms),
    Recount("user_summary", "summaries of users", user_message_summary, _users),
    Recount("user_room_summary", "summaries of users in rooms", user_room_summary, _pairs),
)


def gaps(conn: Connection, limit: int) -> list[Finding]:
    """With unique numbers from 1 upwards, a room has no gap when it holds as many rows as its highest number."""
    rows, lowest, highest = func.count(), func.min(_m.seq), func.max(_m.seq)
    rooms = select(_m.room_id, rows.label("rows"), lowest.label("lowest"), highest.label("highest"))
    broken = rooms.group_by(_m.room_id).having(or_(lowest != 1, rows != highest)).limit(limit)
    return [
        Finding("sequence", room, f"1..{highest} without gaps", f"{rows} rows from {lowest}")
        for room, rows, lowest, highest in fetch(conn, broken)
    ]


def differences(conn: Connection, recount: Recount, limit: int) -> list[Finding]:
    """Keys with messages whose row is missing or wrong, then rows whose key has no messages."""
    matched, wrong = fetch(conn, _compared(recount))[0]
    held = fetch(conn, select(func.count().label("held")).select_from(recount.table).where(recount.counts))[0][0]
    findings: list[Finding] = []
    if wrong:
        findings += [_wrong_finding(recount, row) for row in fetch(conn, _wrong(recount, limit))]
    if held > matched:
        width = len(recount.keys)
        findings += [
            Finding(recount.check, _subject(row[:width]), NOTHING, _listed(recount.values, row[width:]))
            for row in fetch(conn, _extra(recount, limit))
        ]
    return findings


def _compared(recount: Recount) -> Select[Any]:
    """How many rows that must have messages do, and how many keys with messages have a wrong row or none."""
    recounted = recount.recounted()
    matched = func.count(case((recount.counts, recount.table.c[recount.keys[0]])))
    wrong = func.count(case((_differs(recount, recounted), 1)))
    joined = recounted.outerjoin(recount.table, _same_key(recount, recounted))
    columns: list[ColumnElement[Any]] = [matched.label("matched"), wrong.label("wrong")]
    return select(*columns).select_from(joined)


def _wrong(recount: Recount, limit: int) -> Select[Any]:
    recounted, table = recount.recounted(), recount.table
    columns: list[ColumnElement[Any]] = [
        *(recounted.c[key].label(f"key_{key}") for key in recount.keys),
        *(recounted.c[value].label(f"expected_{value}") for value in recount.values),
        *(table.c[value].label(f"found_{value}") for value in recount.values),
    ]
    joined = recounted.outerjoin(table, _same_key(recount, recounted))
    return select(*columns).select_from(joined).where(_differs(recount, recounted)).limit(limit)


def _extra(recount: Recount, limit: int) -> Select[Any]:
    recounted, table = recount.recounted(), recount.table
    columns: list[ColumnElement[Any]] = [table.c[name] for name in (*recount.keys, *recount.values)]
    joined = table.outerjoin(recounted, _same_key(recount, recounted))
    unfounded = recounted.c[recount.keys[0]].is_(None) & recount.counts
    return select(*columns).select_from(joined).where(unfounded).limit(limit)


def _same_key(recount: Recount, recounted: Subquery) -> ColumnElement[bool]:
    return and_(*(recounted.c[key] == recount.table.c[key] for key in recount.keys))


def _differs(recount: Recount, recounted: Subquery) -> ColumnElement[bool]:
    missing = recount.table.c[recount.keys[0]].is_(None)
    return or_(missing, *(recounted.c[value] != recount.table.c[value] for value in recount.values))


def _wrong_finding(recount: Recount, row: Row) -> Finding:
    keys, values = len(recount.keys), len(recount.values)
    expected, found = row[keys : keys + values], row[keys + values :]
    said = NOTHING if found[0] is None else _listed(recount.values, found)
    return Finding(recount.check, _subject(row[:keys]), _listed(recount.values, expected), said)


def _subject(key: Row) -> str:
    return "/".join(str(part) for part in key)


def _listed(names: list[str], values: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
