"""The write side: batches in, sequence numbers out."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import Connection, update

from chatflow.adapters.sql.append import (
    Committed,
    Key,
    Known,
    Tables,
    append_batch,
    append_together,
    distinct_by_key,
    settle_counts,
)
from chatflow.adapters.sql.commit_counts import CommitCounts, CountRow
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.dlq import add_dead_letter
from chatflow.adapters.sql.errors import AlreadyStored
from chatflow.adapters.sql.reader import locate
from chatflow.adapters.sql.schema import key_of, room_heads
from chatflow.ports.clock import WallClock
from chatflow.ports.errors import RowRejected, StoreUnavailable
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import Appended

DUPLICATE_ROUNDS = 16
"""How often a batch may meet messages that another writer has just committed."""

_room_of = attrgetter("room_id")


@attrs.frozen
class SqlMessageStore:
    """``MessageStore`` that inserts first and looks duplicates up on failure: they come only with redelivery."""

    database: Database
    wall_clock: WallClock
    summaries: bool = attrs.field(kw_only=True)
    counts: CommitCounts = attrs.field(kw_only=True, factory=CommitCounts)

    async def append_batch(self, messages: Sequence[Message]) -> Appended:
        partitions = self.counts.enter(map(_room_of, messages))
        try:
            await self._settle_counts(partitions)
            committed = await self._append_new(messages, partitions)
            self.counts.add(committed.new)
        except BaseException:
            self.counts.doubt(partitions)
            raise
        finally:
            self.counts.leave(partitions)
        return _appended(messages, committed)

    async def _append_new(self, messages: Sequence[Message], partitions: frozenset[int]) -> Committed:
        known: dict[Key, StoredMessage] = {}
        met = ""
        for _ in range(DUPLICATE_ROUNDS):
            try:
                return await self.database.write(
                    self._append, messages, known, together=self._append_together, weight=len(messages)
                )
            except AlreadyStored as exc:  # it may have been this very process, in a group whose outcome nobody knew
                met = str(exc)
                self.counts.doubt(partitions)
                found, counted = await self.database.write(_known, messages, self.counts.doubted_rows(partitions))
                self.counts.settle(counted)
                known |= found
        raise StoreUnavailable(f"met new duplicates {DUPLICATE_ROUNDS} times in a row: {met}")

    def _append(self, conn: Connection, messages: Sequence[Message], known: Known) -> Committed:
        return append_batch(conn, messages, known, self._tables)

    def _append_together(self, conn: Connection, calls: Sequence[tuple[Sequence[Message], Known]]) -> list[Committed]:
        return append_together(conn, calls, self._tables)

    @property
    def _tables(self) -> Tables:
        return Tables(self.summaries, self.counts)

    async def _settle_counts(self, partitions: frozenset[int]) -> None:
        """Read doubted counts from the store; as rare as errors and duplicates."""
        if rows := self.counts.doubted_rows(partitions):
            self.counts.settle(await self.database.write(settle_counts, rows))

    async def add_dead_letter(self, message: Message, reason: str) -> None:
        await self.database.write(add_dead_letter, message, reason, self.wall_clock())

    async def ping(self) -> None:
        await self.database.write(_ping)


def _appended(messages: Sequence[Message], committed: Committed) -> Appended:
    return Appended(tuple(committed.by_key.values()), len(messages) - committed.inserted)


def _known(
    conn: Connection, messages: Sequence[Message], rows: Sequence[CountRow]
) -> tuple[dict[Key, StoredMessage], dict[int, int]]:
    """Which of these messages are stored, and the counts of doubted partitions.

    Raises:
        RowRejected: a user id is no integer; SQLite might store it as one, and would never be found under it.
    """
    counted = settle_counts(conn, rows) if rows else {}
    keys = [message.key for message in distinct_by_key(messages).values()]
    if any(type(user_id) is not int for _, user_id in keys):
        raise RowRejected("user_id: not an integer")
    return {(key_of(message_id), user_id): row for (message_id, user_id), row in locate(conn, keys).items()}, counted


def _ping(conn: Connection) -> None:
    """A write that touches no row: a read-only server refuses it, and one that lets this user write does not."""
    conn.execute(update(room_heads).where(room_heads.c.room_id == "").values(last_seq=room_heads.c.last_seq))


if TYPE_CHECKING:
    from chatflow.ports.store import MessageStore

    _: type[MessageStore] = SqlMessageStore
