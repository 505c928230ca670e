"""Recount everything inside the database: its time grows as sorting does, and memory stays flat."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import Connection, Select, func, select

from chatflow.adapters.sql.audit_recounts import HEAD, SUMMARIES, differences, gaps
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.json_rows import Row, chunks, fetch
from chatflow.adapters.sql.keyed import KeyedSelect, is_id
from chatflow.adapters.sql.schema import commit_counts, messages
from chatflow.ports.messages import MessageKey
from chatflow.ports.store import AckedKey, Copy, Finding

COPIES = select(messages.c.message_id, messages.c.user_id, messages.c.room_id)
COPIES_BY_KEY = KeyedSelect(COPIES)


@attrs.frozen
class SqlAuditor:
    """``Auditor`` on one consistent snapshot; one aggregate per table, of which only differences are fetched."""

    database: Database

    async def recount(
        self, *, summaries: bool, limit: int = 100, started: Callable[[str], None] = lambda _: None
    ) -> tuple[int, list[Finding]]:
        return await self.database.snapshot(recount, summaries, limit, started)

    async def copies(self, keys: Sequence[AckedKey]) -> dict[AckedKey, list[Copy]]:
        found: dict[AckedKey, list[Copy]] = {}
        possible = [key for key in keys if is_id(key[0])]
        of_users = [(message_id, user_id) for message_id, user_id in possible if user_id is not None]
        for message_id, user_id, room_id in await self.database.snapshot(_copies_of_users, of_users):
            found.setdefault((message_id, user_id), []).append((user_id, room_id))
        for ids in chunks([message_id for message_id, user_id in possible if user_id is None]):
            for message_id, user_id, room_id in await self.database.snapshot(_copies_of_anybody, ids):
                found.setdefault((message_id, None), []).append((user_id, room_id))
        return found


def recount(conn: Connection, summaries: bool, limit: int, started: Callable[[str], None]) -> tuple[int, list[Finding]]:
    """Count the messages and collect at most ``limit`` findings."""
    started("messages")
    total = _total(conn)
    findings: list[Finding] = []
    for found in _findings(conn, summaries, limit, started):
        findings += found
        if len(findings) >= limit:
            break
    return total, findings[:limit]


def _total(conn: Connection) -> int:
    total: int = fetch(conn, select(func.count().label("total")).select_from(messages))[0][0]
    return total


def _findings(conn: Connection, summaries: bool, limit: int, started: Callable[[str], None]) -> Iterator[list[Finding]]:
    started("sequences")
    yield gaps(conn, limit)
    for recounted in (HEAD, *(SUMMARIES if summaries else ())):
        started(recounted.title)
        yield differences(conn, recounted, limit)
    started("confirmed commits")
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


def _copies_of_users(conn: Connection, keys: Sequence[MessageKey]) -> Sequence[Row]:
    return list(COPIES_BY_KEY.rows(conn, keys))


def _copies_of_anybody(conn: Connection, message_ids: Sequence[str]) -> Sequence[Row]:
    return fetch(conn, COPIES.where(messages.c.message_id.in_(message_ids)))


if TYPE_CHECKING:
    from chatflow.ports.store import Auditor

    _: type[Auditor] = SqlAuditor
