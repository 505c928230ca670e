"""The commit transaction's statements on SQLite, written for a process whose event loop is busy.

Python's ``sqlite3`` gives the GIL up around every step of a statement and has to win it back from the event loop's
thread each time. ``executemany`` does so for every row, so here a statement carries hundreds of rows: messages as one
multi-row ``VALUES`` of a fixed size, room lists as one JSON parameter, and summaries grouped inside SQLite. The texts
are constant, so each is prepared once per connection. See docs/adr/0003.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import attrs
import msgspec
from sqlalchemy import Connection, Table, func, select
from sqlalchemy import bindparam as param
from sqlalchemy.dialects import sqlite

from chatflow.adapters.sql.commit_counts import CountRow
from chatflow.adapters.sql.schema import messages, room_heads
from chatflow.adapters.sql.summaries import TABLES, grouped, upsert_on_sqlite
from chatflow.ports.messages import Message

WIDTH = len(messages.columns)
MAX_ROWS = 2048
"""Per statement: 22,528 variables, under SQLite's default limit of 32,766."""

READ_HEADS = """SELECT json_group_object(room_id, last_seq) FROM room_heads
WHERE room_id IN (SELECT value FROM json_each(?))"""
CREATE_HEADS = "INSERT INTO room_heads (room_id, last_seq) SELECT value, 0 FROM json_each(?)"
RAISE_HEADS = """INSERT INTO room_heads (room_id, last_seq) SELECT key, value FROM json_each(?) WHERE true
ON CONFLICT (room_id) DO UPDATE SET last_seq = excluded.last_seq"""
COUNT = """INSERT INTO commit_counts (processor, partition_id, partitions, committed, last_batch)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?) WHERE true
ON CONFLICT (processor, partition_id, partitions) DO UPDATE
SET committed = max(committed + excluded.last_batch, excluded.committed), last_batch = excluded.last_batch"""

_encode = msgspec.json.Encoder().encode
_decode_heads = msgspec.json.Decoder(dict[str, int]).decode


@attrs.frozen
class SqliteAppend:
    """``AppendStatements`` inside ``BEGIN IMMEDIATE``, which is the head lock here: one writer per database."""

    conn: Connection
    fresh: Collection[Message]
    summaries: bool

    def lock_heads(self, rooms: Sequence[str]) -> dict[str, int]:
        heads = read_heads(self.conn, rooms)
        missing = [room for room in rooms if room not in heads]
        if missing:
            self.conn.exec_driver_sql(CREATE_HEADS, (_as_json(missing),))
            heads.update(dict.fromkeys(missing, 0))
        return heads

    def write(
        self,
        values: Sequence[object],
        before: Mapping[str, int],
        after: Mapping[str, int],
        counts: Sequence[CountRow],
    ) -> None:
        self._insert(values)
        if self.summaries:
            rooms = (_as_json(list(before)),)
            for table in TABLES:
                self.conn.exec_driver_sql(_upsert_of(table), rooms)  # counts what stands above the heads
        self.conn.exec_driver_sql(RAISE_HEADS, (_as_json(after),))
        write_counts(self.conn, counts)

    def _insert(self, values: Sequence[object]) -> None:
        for start in range(0, len(values), MAX_ROWS * WIDTH):
            chunk = values[start : start + MAX_ROWS * WIDTH]
            rows = _padded_rows(len(chunk) // WIDTH)
            padding = (None,) * (rows * WIDTH - len(chunk))
            self.conn.exec_driver_sql(_insert_of(rows), (*chunk, *padding))


def read_heads(conn: Connection, rooms: Sequence[str]) -> dict[str, int]:
    """The last ``seq`` of each room that has a head."""
    return _decode_heads(conn.exec_driver_sql(READ_HEADS, (_as_json(rooms),)).scalar_one())


def write_counts(conn: Connection, rows: Sequence[CountRow]) -> None:
    """Add to ``commit_counts``, but never count less than the processor had confirmed."""
    conn.exec_driver_sql(COUNT, (_as_json(rows),))


def _as_json(value: object) -> str:
    return _encode(value).decode()


def _padded_rows(rows: int) -> int:
    """The next power of two, so that a dozen prepared statements serve every batch size."""
    return 1 << (rows - 1).bit_length()


@cache
def _insert_of(rows: int) -> str:
    """One statement for up to ``rows`` rows: those that pad it have no room and are left out."""
    columns = ", ".join(column.name for column in messages.columns)
    one = "(" + ", ".join("?" * WIDTH) + ")"
    values = ", ".join([one] * rows)
    return f"INSERT INTO messages ({columns}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"  # noqa: S608 - constants


@cache
def _upsert_of(table: Table) -> str:
    """Group the rows above the heads of the rooms in one JSON parameter, in key order, into ``table``."""
    named = func.json_each(param("rooms")).table_valued("value")
    source = room_heads.join(messages, messages.c.room_id == room_heads.c.room_id)
    above = room_heads.c.room_id.in_(select(named.c.value)) & (messages.c.seq > room_heads.c.last_seq)
    rows = grouped(table, "sqlite", source, above)
    return str(upsert_on_sqlite(table, rows).compile(dialect=sqlite.dialect(paramstyle="qmark")))
