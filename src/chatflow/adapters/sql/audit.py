"""Recount everything inside the database, so that memory stays flat however many messages there are."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import Connection, Select, Subquery, Table, and_, exists, func, or_, select

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.json_rows import Row, chunks, fetch
from chatflow.adapters.sql.reader import is_id
from chatflow.adapters.sql.schema import (
    commit_counts,
    messages,
    room_heads,
    room_message_summary,
    user_message_summary,
    user_room_summary,
)
from chatflow.adapters.sql.summaries import grouped
from chatflow.ports.store import Finding

CHECKS = {
    "room_summary": room_message_summary,
    "user_summary": user_message_summary,
    "user_room_summary": user_room_summary,
}
NOTHING = "nothing"


@attrs.frozen
class SqlAuditor:
    """``Auditor`` on one consistent snapshot; one aggregate per table, of which only differences are fetched."""

    database: Database

    async def recount(self, *, summaries: bool, limit: int = 100) -> tuple[int, list[Finding]]:
        return await self.database.snapshot(recount, summaries, limit)

    async def copies(self, message_ids: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for chunk in chunks([text for text in message_ids if is_id(text)]):
            for message_id, room_id in await self.database.snapshot(_copies, chunk):
                found.setdefault(message_id, []).append(room_id)
        return found


def recount(conn: Connection, summaries: bool, limit: int) -> tuple[int, list[Finding]]:
    """Count the messages and collect at most ``limit`` findings."""
    total = _total(conn)
    findings: list[Finding] = []
    for found in _findings(conn, summaries, limit):
        findings += found
        if len(findings) >= limit:
            break
    return total, findings[:limit]


def _total(conn: Connection) -> int:
    total: int = fetch(conn, select(func.count().label("total")).select_from(messages))[0][0]
    return total


def _findings(conn: Connection, summaries: bool, limit: int) -> Iterator[list[Finding]]:
    yield _gaps(conn, limit)
    yield _differences(conn, "head", room_heads, _highest(), limit)
    if summaries:
        for check, table in CHECKS.items():
            yield _differences(conn, check, table, _recounted(conn, table), limit)
    yield lost_commits(conn, limit)


def lost_commits(conn: Connection, limit: int) -> list[Finding]:
    """Partitions with fewer rows than processors had confirmed; if none can be named, all of them together."""
    counted = {(row[0], row[1]): int(row[2]) for row in fetch(conn, _counted())}
    findings: list[Finding] = []
    for partitions in sorted({partitions for partitions, _ in counted if partitions}):
        rows = {row[0]: int(row[1]) for row in fetch(conn, _rows_by_partition(partitions))}
        findings += [
            Finding(
                "commits",
                f"partition {partition} of {partitions}",
                _confirmed(confirmed),
                f"{rows.get(partition, 0)} rows",
            )
            for (number, partition), confirmed in counted.items()
            if number == partitions and rows.get(partition, 0) < confirmed
        ]
    total, confirmed = _total(conn), sum(counted.values())
    if not findings and total < confirmed:
        findings.append(Finding("commits", "all partitions", _confirmed(confirmed), f"{total} rows"))
    return findings[:limit]


def _counted() -> Select[Any]:
    """By number of partitions and partition; messages stored before counting began are partition -1 of 0."""
    keys = commit_counts.c.partitions, commit_counts.c.partition_id
    return select(*keys, func.sum(commit_counts.c.committed).label("committed")).group_by(*keys).order_by(*keys)


def _rows_by_partition(partitions: int) -> Select[Any]:
    """As `partition_of` computes it, but once per room, since SQLite calls Python for the CRC."""
    rooms = select(messages.c.room_id, func.count().label("rows")).group_by(messages.c.room_id).subquery("rooms")
    partition = (func.crc32(rooms.c.room_id) % partitions).label("partition_id")
    return select(partition, func.sum(rooms.c.rows).label("rows")).group_by(partition)


def _confirmed(committed: int) -> str:
    return f"{committed} rows confirmed to processors"


def _gaps(conn: Connection, limit: int) -> list[Finding]:
    """With unique numbers from 1 upwards, a room has no gap when it holds as many rows as its highest number."""
    rows, lowest, highest = func.count(), func.min(messages.c.seq), func.max(messages.c.seq)
    rooms = select(messages.c.room_id, rows.label("rows"), lowest.label("lowest"), highest.label("highest"))
    broken = rooms.group_by(messages.c.room_id).having(or_(lowest != 1, rows != highest)).limit(limit)
    return [
        Finding("sequence", room, f"1..{highest} without gaps", f"{rows} rows from {lowest}")
        for room, rows, lowest, highest in fetch(conn, broken)
    ]


def _highest() -> Subquery:
    highest = func.max(messages.c.seq).label("last_seq")
    return select(messages.c.room_id, highest).group_by(messages.c.room_id).subquery("recount")


def _recounted(conn: Connection, table: Table) -> Subquery:
    rows = grouped(table, conn.dialect.name, messages, None, fresh=False)
    labels = zip(rows.selected_columns, table.columns, strict=True)
    return rows.with_only_columns(*(value.label(column.name) for value, column in labels)).subquery("recount")


def _differences(conn: Connection, check: str, table: Table, recounted: Subquery, limit: int) -> list[Finding]:
    keys = [column.name for column in table.primary_key]
    values = [column.name for column in table.columns if not column.primary_key]
    wrong = fetch(conn, _wrong(table, recounted, keys, values, limit))
    extra = fetch(conn, _extra(table, keys, values, limit))
    width = len(keys)
    return [_wrong_finding(check, row, width, values) for row in wrong] + [
        Finding(check, _subject(row[:width]), NOTHING, _listed(values, row[width:])) for row in extra
    ]


def _wrong(table: Table, recounted: Subquery, keys: list[str], values: list[str], limit: int) -> Select[Any]:
    """Keys with messages whose row is missing or wrong."""
    same_key = and_(*(recounted.c[key] == table.c[key] for key in keys))
    differs = or_(table.c[keys[0]].is_(None), *(recounted.c[value] != table.c[value] for value in values))
    columns = [
        *(recounted.c[key].label(f"key_{key}") for key in keys),
        *(recounted.c[value].label(f"expected_{value}") for value in values),
        *(table.c[value].label(f"found_{value}") for value in values),
    ]
    return select(*columns).select_from(recounted.outerjoin(table, same_key)).where(differs).limit(limit)


def _extra(table: Table, keys: list[str], values: list[str], limit: int) -> Select[Any]:
    """Rows whose key has no messages; a head at 0 is right.

    Pairs compare the room as an expression: SQLite would otherwise scan the room for each, not the user's few rows.
    """
    same = [messages.c[key] == table.c[key] for key in keys]
    if table is user_room_summary:
        same[keys.index("room_id")] = messages.c.room_id.concat("") == table.c.room_id
    counted = exists().where(*same)
    unfounded = ~counted if table is not room_heads else and_(~counted, room_heads.c.last_seq != 0)
    return select(*(table.c[name] for name in (*keys, *values))).where(unfounded).limit(limit)


def _wrong_finding(check: str, row: Row, width: int, values: list[str]) -> Finding:
    expected, found = row[width : width + len(values)], row[width + len(values) :]
    said = NOTHING if found[0] is None else _listed(values, found)
    return Finding(check, _subject(row[:width]), _listed(values, expected), said)


def _subject(key: Row) -> str:
    return "/".join(str(part) for part in key)


def _listed(names: list[str], values: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def _copies(conn: Connection, message_ids: Sequence[str]) -> Sequence[Row]:
    wanted = select(messages.c.message_id, messages.c.room_id).where(messages.c.message_id.in_(message_ids))
    return fetch(conn, wanted)


if TYPE_CHECKING:
    from chatflow.ports.store import Auditor

    _: type[Auditor] = SqlAuditor
