"""The commit transaction's statements on MySQL 8 and MariaDB, at READ COMMITTED."""

from collections.abc import Mapping, Sequence

import attrs
from sqlalchemy import ColumnElement, Connection, Select, and_, insert, or_, select
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.dml import Insert

from chatflow.adapters.sql.schema import messages, room_heads
from chatflow.adapters.sql.summaries import TABLES, grouped, upsert_on_mysql
from chatflow.ports.errors import RowRejected

COLUMNS = tuple(column.name for column in messages.columns)
WIDTH = len(COLUMNS)


@attrs.frozen
class MysqlAppend:
    """``AppendStatements`` with row locks on the heads, taken in room order."""

    def lock_heads(self, conn: Connection, rooms: Sequence[str]) -> dict[str, int]:
        heads = self._locked(conn, rooms)
        missing = [room for room in rooms if room not in heads]
        if missing:
            conn.execute(created_heads(missing))
            heads |= self._locked(conn, missing)
        return heads

    @staticmethod
    def _locked(conn: Connection, rooms: Sequence[str]) -> dict[str, int]:
        return {row.room_id: row.last_seq for row in conn.execute(locked_heads(rooms))}

    def insert(self, conn: Connection, values: Sequence[object]) -> None:
        """Plain placeholders only, so that the driver sends one multi-row INSERT."""
        rows = (values[start : start + WIDTH] for start in range(0, len(values), WIDTH))
        named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        try:
            conn.execute(insert(messages), named)
        except TypeError as exc:  # the driver's, for a value that is no scalar
            raise RowRejected(str(exc)) from exc

    def summarise(self, conn: Connection, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        above = rows_between(before, after)
        for table in TABLES:
            conn.execute(upsert_on_mysql(table, grouped(table, "mysql", messages, above)))

    def raise_heads(self, conn: Connection, heads: Mapping[str, int]) -> None:
        conn.execute(raised_heads(heads))


def locked_heads(rooms: Sequence[str]) -> Select[tuple[str, int]]:
    """The index is forced: a scan would wait for the locks of rooms that are not asked for."""
    statement = select(room_heads.c.room_id, room_heads.c.last_seq).where(room_heads.c.room_id.in_(rooms))
    hinted = statement.with_hint(room_heads, "FORCE INDEX (PRIMARY)", "mysql")
    return hinted.order_by(room_heads.c.room_id).with_for_update()


def created_heads(rooms: Sequence[str]) -> Insert:
    """Heads at 0; one that another writer has just created stays as it is."""
    statement = mysql.insert(room_heads).values([{"room_id": room, "last_seq": 0} for room in rooms])
    return statement.on_duplicate_key_update(last_seq=room_heads.c.last_seq)


def raised_heads(heads: Mapping[str, int]) -> Insert:
    """Every head at its new place."""
    rows = [{"room_id": room, "last_seq": heads[room]} for room in sorted(heads)]
    statement = mysql.insert(room_heads).values(rows)
    return statement.on_duplicate_key_update(last_seq=statement.inserted.last_seq)


def rows_between(before: Mapping[str, int], after: Mapping[str, int]) -> ColumnElement[bool]:
    """The rows that this transaction inserted, as ranges of the clustered key."""
    room_id, seq = messages.c.room_id, messages.c.seq
    return or_(*(and_(room_id == room, seq > before[room], seq <= after[room]) for room in sorted(before)))
