"""The commit transaction: lock the heads, number, insert, summarise, raise the heads.

Order and gaplessness come from the head lock (MySQL: ``FOR UPDATE``; SQLite: ``BEGIN IMMEDIATE``), never from the hope
that there is one consumer. The insert is plain, so a message that exists fails the whole transaction with
``AlreadyStored``: the caller rolls back, looks the keys up, and starts again without them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Protocol

import attrs
from sqlalchemy import Connection, select

from chatflow.adapters.sql.commit_counts import CommitCounts, CountRow
from chatflow.adapters.sql.errors import AlreadyStored
from chatflow.adapters.sql.mysql import append as append_mysql
from chatflow.adapters.sql.mysql.append import MysqlAppend
from chatflow.adapters.sql.schema import KEY_BYTES, commit_counts
from chatflow.adapters.sql.sqlite import append as append_sqlite
from chatflow.adapters.sql.sqlite.append import SqliteAppend
from chatflow.domain.messages.rooms import is_known_room
from chatflow.ports.errors import RowRejected
from chatflow.ports.messages import Message, StoredMessage

Key = tuple[bytes, int]
"""The 16 bytes of a message id, and the user id."""

Known = Mapping[Key, StoredMessage]
"""Messages that were stored before."""


class AppendStatements(Protocol):
    """The statements that differ between the dialects, for one transaction."""

    def lock_heads(self, rooms: Sequence[str]) -> dict[str, int]:
        """Lock the rooms' heads until the transaction ends, and create missing ones at 0; the last ``seq`` of each."""

    def write(
        self,
        values: Sequence[object],
        before: Mapping[str, int],
        after: Mapping[str, int],
        counts: Sequence[CountRow],
    ) -> None:
        """Insert rows given flat, ``schema.messages`` columns in table order; raise each room's head; write ``counts``.

        Where summary tables are kept, the rows are added to them.
        """


NewAppend = Callable[[Connection, Collection[Message], bool], AppendStatements]
"""From a transaction, the messages that it stores, and whether it keeps the summary tables."""


@attrs.frozen
class Committed:
    """One attempt.

    Attributes:
        by_key: every distinct message in arrival order.
        new: how many of them are new, by room.
    """

    by_key: dict[Key, StoredMessage]
    new: Mapping[str, int]

    @property
    def inserted(self) -> int:
        """How many rows are new."""
        return sum(self.new.values())


STATEMENTS: dict[str, NewAppend] = {"sqlite": SqliteAppend, "mysql": MysqlAppend}
WRITE_COUNTS = {"sqlite": append_sqlite.write_counts, "mysql": append_mysql.write_counts}


@attrs.frozen
class Tables:
    """Which tables a commit keeps besides the messages. ``counts``: the processor's own; it has one."""

    summaries: bool
    counts: CommitCounts


def append_batch(conn: Connection, batch: Sequence[Message], known: Known, tables: Tables) -> Committed:
    """Store what is not ``known``, inside the transaction that ``conn`` is in.

    Raises:
        AlreadyStored: a key exists that is not in ``known``; the transaction must be rolled back.
        RowRejected: a value cannot be stored.
        SequenceCollision: a number above the head is taken.
    """
    return _append(conn, distinct_by_key(batch), known, tables)


def append_together(
    conn: Connection, calls: Sequence[tuple[Sequence[Message], Known]], tables: Tables
) -> list[Committed]:
    """Do what ``append_batch`` would for each call in turn, in one pass.

    Raises:
        AlreadyStored: also when two calls share a key; each must then run alone.
    """
    parts = [distinct_by_key(batch) for batch, _ in calls]
    merged = {key: message for part in parts for key, message in part.items()}
    if len(merged) != sum(map(len, parts)):
        raise AlreadyStored("a message stands in two batches of one group")
    known = {key: stored for _, known in calls for key, stored in known.items()}
    stored = iter(_append(conn, merged, known, tables).by_key.items())
    return [
        Committed(
            dict(islice(stored, len(part))), Counter(each.room_id for key, each in part.items() if key not in known)
        )
        for part in parts
    ]


def _append(conn: Connection, distinct: dict[Key, Message], known: Known, tables: Tables) -> Committed:
    fresh = distinct if not known else {key: message for key, message in distinct.items() if key not in known}
    if not fresh:
        return Committed({key: known[key] for key in distinct}, {})
    statements = STATEMENTS[conn.dialect.name](conn, fresh.values(), tables.summaries)
    before = statements.lock_heads(_sorted_rooms(fresh))
    after = dict(before)
    numbered, values = _number(fresh, after)
    new = {room: head - before[room] for room, head in after.items()}
    statements.write(values, before, after, tables.counts.rows(new))
    by_key = numbered if not known else {key: numbered.get(key) or known[key] for key in distinct}
    return Committed(by_key, new)


def settle_counts(conn: Connection, rows: Sequence[CountRow]) -> dict[int, int]:
    """Write the confirmed counts of one processor, and read its stored counts by partition."""
    WRITE_COUNTS[conn.dialect.name](conn, rows)
    processor, partitions = rows[0][0], [row[1] for row in rows]
    wanted = select(commit_counts.c.partition_id, commit_counts.c.committed).where(
        commit_counts.c.processor == processor, commit_counts.c.partition_id.in_(partitions)
    )
    return {row.partition_id: row.committed for row in conn.execute(wanted)}


def distinct_by_key(batch: Sequence[Message]) -> dict[Key, Message]:
    """The first message of each key, in arrival order.

    Raises:
        RowRejected: an id is not a UUID, or a user id no number.
    """
    distinct: dict[Key, Message] = {}
    try:
        for message in batch:
            key = bytes.fromhex(message.message_id.replace("-", ""))  # as `schema.key_of`, without a call per message
            if len(key) != KEY_BYTES:
                raise ValueError("not 16 bytes")  # noqa: TRY301 - as any other id that is none
            distinct.setdefault((key, message.user_id), message)
    except (ValueError, TypeError, AttributeError) as exc:
        raise RowRejected(f"message_id or user_id: {exc}") from exc
    return distinct


def _sorted_rooms(fresh: Mapping[Key, Message]) -> list[str]:
    """The rooms in lock order. Only valid names: a server may compare other text in its own way, or not at all."""
    try:
        rooms = {message.room_id for message in fresh.values()}
        if all(map(is_known_room, rooms)):
            return sorted(rooms)
    except TypeError as exc:
        raise RowRejected(f"room_id: {exc}") from exc
    raise RowRejected("room_id: not the name of a room")


def _number(fresh: Mapping[Key, Message], heads: dict[str, int]) -> tuple[dict[Key, StoredMessage], list[object]]:
    """Give each message the next ``seq`` of its room, advance ``heads``, and lay the rows out flat."""
    numbered: dict[Key, StoredMessage] = {}
    values: list[object] = []
    for key, message in fresh.items():
        room_id = message.room_id
        heads[room_id] = seq = heads[room_id] + 1
        numbered[key] = StoredMessage(message, seq)
        values += (
            room_id,
            seq,
            key[0],
            message.user_id,
            message.username,
            message.message_type,
            message.text,
            message.sent_at_us,
            message.accepted_at_us,
            message.server_id,
            message.client_ip,
        )
    return numbered, values
