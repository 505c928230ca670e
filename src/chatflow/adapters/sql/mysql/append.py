"""The commit transaction's statements on MySQL 8 and MariaDB, at READ COMMITTED. See docs/adr/0009.

Texts are constant where rows are many, so that each is compiled once per engine and prepared once per connection; what
varies in length is a row of ``MultiRow`` or a JSON parameter. The heads are locked by the packet that begins.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import msgspec
from sqlalchemy import BigInteger, Column, Connection, Table, bindparam, func, literal_column
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.dml import Insert

from chatflow.adapters.sql.commit_counts import CountRow
from chatflow.adapters.sql.mysql.multirow import BoundRow, MultiRow, literal, packet_bytes, size_bound
from chatflow.adapters.sql.mysql.packet import commit_together, run_together
from chatflow.adapters.sql.schema import (
    EpochMicros,
    commit_counts,
    messages,
    room_heads,
    room_message_summary,
    user_message_summary,
    user_room_summary,
)
from chatflow.adapters.sql.summaries import merged_on_mysql
from chatflow.adapters.sql.summary_deltas import deltas_of
from chatflow.ports.messages import Message

WIDTH = len(messages.columns)
ROOM, USER, USERNAME, ACCEPTED = (
    messages.columns.keys().index(name) for name in ("room_id", "user_id", "username", "accepted_at")
)
NEW_PAIRS = """SELECT batch.room_id COLLATE ascii_bin AS room, COUNT(*) FROM JSON_TABLE(%s, '$[*]' COLUMNS (
user_id BIGINT PATH '$[0]', room_id VARCHAR(64) CHARACTER SET ascii PATH '$[1]')) AS batch
LEFT JOIN user_room_summary AS known
ON known.user_id = batch.user_id AND known.room_id = batch.room_id COLLATE ascii_bin
WHERE known.user_id IS NULL GROUP BY room"""
SMALL = 16
"""As many messages are written with as few packets as possible; more are cheaper in binary. See docs/adr/0011."""
PAIR_BYTES = 160
"""Upper bound for one pair in the parameter of `NEW_PAIRS`."""

_as_json = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class MysqlAppend:
    """``AppendStatements`` with row locks on the heads, taken in room order."""

    conn: Connection
    fresh: Collection[Message]
    summaries: bool
    _new_users: dict[str, int] | None = attrs.field(init=False, default=None)
    """By room; ``None`` unless they were counted when the heads were locked."""

    @property
    def _is_small(self) -> bool:
        return len(self.fresh) <= SMALL

    def lock_heads(self, rooms: Sequence[str]) -> dict[str, int]:
        heads = self._locked_and_counted(rooms) if self._is_small else self._locked(rooms)
        missing = [room for room in rooms if room not in heads]
        if missing:
            self._new_users = None  # where no head was locked, another writer may have been
            creation, rows = created_heads(self.conn.dialect), [(room, 0) for room in missing]
            creation.check(rows)
            creation.run(self.conn, rows)
            heads |= self._locked(missing)
        return heads

    def write(
        self,
        values: Sequence[object],
        before: Mapping[str, int],
        after: Mapping[str, int],
        counts: Sequence[CountRow],
    ) -> None:
        insertion, rows = inserted_messages(self.conn.dialect), list(zip(*[iter(values)] * WIDTH, strict=True))
        insertion.check(rows)
        sums = self._sums(values) if self.summaries else []
        writes: list[tuple[MultiRow, Sequence[BoundRow]]] = [
            (insertion, rows),
            *sums,
            (raised_heads(self.conn.dialect), sorted(after.items())),
            (counted(self.conn.dialect), counts),
        ]
        if self._is_small and self._run_last(writes):
            return
        for statement, each in writes[:-2]:
            statement.run(self.conn, each)
        if not self._run_last(writes[-2:]):  # heads and counts, which are short
            for statement, each in writes[-2:]:
                statement.run(self.conn, each)

    def _run_last(self, writes: Sequence[tuple[MultiRow, Sequence[BoundRow]]]) -> bool:
        """Send these and the commit in one packet, if they fit; whether they did."""
        if sum(size_bound(rows) for _, rows in writes) > packet_bytes(self.conn):
            return False
        commit_together(self.conn, [statement.rendered(rows) for statement, rows in writes])
        return True

    def _locked(self, rooms: Sequence[str]) -> dict[str, int]:
        (heads,) = run_together(self.conn, [locked_heads(rooms)])
        return dict(heads)

    def _locked_and_counted(self, rooms: Sequence[str]) -> dict[str, int]:
        """Lock the heads, and count the rooms' new users in the same packet."""
        pairs = list({(message.user_id, message.room_id) for message in self.fresh})
        if not all(type(user) is int and type(room) is str for user, room in pairs):
            return self._locked(rooms)  # the rows will be refused
        statements = [locked_heads(rooms)]
        if self.summaries:
            statements.append(NEW_PAIRS % literal(_as_json(pairs).decode()))
        heads, *counts = run_together(self.conn, statements)
        self._new_users = dict(counts[0]) if counts else None
        return dict(heads)

    def _sums(self, values: Sequence[object]) -> list[tuple[MultiRow, Sequence[BoundRow]]]:
        columns = (values[place::WIDTH] for place in (ROOM, USER, USERNAME, ACCEPTED))
        batch = deltas_of(zip(*columns, strict=True))
        new = self._new_users
        if new is None:
            new = new_pairs(self.conn, [pair[:2] for pair in batch.pairs])
        rooms = [(room, count, new.get(room, 0), latest) for room, count, latest in batch.rooms]
        tables = (room_message_summary, rooms), (user_room_summary, batch.pairs), (user_message_summary, batch.users)
        return [(merged(table, self.conn.dialect), rows) for table, rows in tables]


def new_pairs(conn: Connection, pairs: Sequence[tuple[int, str]]) -> dict[str, int]:
    """Users by room that ``user_room_summary`` does not hold yet."""
    fresh: dict[str, int] = {}
    size = max(1, packet_bytes(conn) // PAIR_BYTES)
    for start in range(0, len(pairs), size):
        part = _as_json(pairs[start : start + size]).decode()
        for room, count in conn.exec_driver_sql(NEW_PAIRS, (part,)):
            fresh[room] = fresh.get(room, 0) + count
    return fresh


def locked_heads(rooms: Sequence[str]) -> str:
    """Forces the index: a scan would wait for locks of other rooms."""
    return (
        "SELECT room_id, last_seq FROM room_heads FORCE INDEX (PRIMARY) "  # noqa: S608 - escaped, and names of rooms
        f"WHERE room_id IN ({', '.join(map(literal, rooms))}) ORDER BY room_id FOR UPDATE"
    )


@lru_cache
def inserted_messages(dialect: Any) -> MultiRow:
    """A plain insert: a row that does not fit, or exists, fails the transaction."""
    return MultiRow.of(_values(messages), dialect)


@lru_cache
def created_heads(dialect: Any) -> MultiRow:
    """Create heads at 0, and leave one that another writer has just created as it is."""
    return MultiRow.of(_values(room_heads).on_duplicate_key_update(last_seq=room_heads.c.last_seq), dialect)


@lru_cache
def raised_heads(dialect: Any) -> MultiRow:
    """Set heads to their new ``seq``."""
    statement = _values(room_heads)
    return MultiRow.of(statement.on_duplicate_key_update(last_seq=statement.inserted.last_seq), dialect)


@lru_cache
def merged(table: Table, dialect: Any) -> MultiRow:
    """Add rows to a summary table."""
    return MultiRow.of(merged_on_mysql(_values(table), table), dialect)


@lru_cache
def counted(dialect: Any) -> MultiRow:
    """Add to ``commit_counts``, but never count less than the processor had confirmed."""
    statement = _values(commit_counts)
    new, known = statement.inserted, commit_counts.c
    most = func.greatest(known.committed + new.last_batch, new.committed)
    return MultiRow.of(
        statement.on_duplicate_key_update([("committed", most), ("last_batch", new.last_batch)]), dialect
    )


def write_counts(conn: Connection, rows: Sequence[CountRow]) -> None:
    """Write ``commit_counts`` outside of a batch."""
    run_together(conn, [counted(conn.dialect).rendered(rows)])


def _values(table: Table) -> Insert:
    return mysql.insert(table).values({column.name: _bound(column) for column in table.columns})


def _bound(column: Column[Any]) -> Any:
    """A moment travels as microseconds: an integer is cheaper than a date on the way and in Python."""
    if isinstance(column.type, EpochMicros):
        microseconds = bindparam(column.name, type_=BigInteger)
        return func.timestampadd(literal_column("MICROSECOND"), microseconds, literal_column("'1970-01-01'"))
    return bindparam(column.name)
