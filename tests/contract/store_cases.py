"""A store under test, with everything that reads it, and a raw connection that trusts none of it."""

import itertools
import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import attrs
import uuid_utils

from chatflow.adapters.memory.analytics import MemoryAnalytics
from chatflow.adapters.memory.store import MemoryStore, MemoryTables
from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.analytics import ComputedAnalytics, SummaryAnalytics
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.dlq import SqlDeadLetters
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import Analytics, Auditor, DeadLetters, MessageReader, MessageStore
from tests.contract.store_maria import RawMaria

NOW_US = 1_795_000_000_000_000
MINUTE_US = 60_000_000

Row = tuple[object, ...]


@attrs.frozen(eq=False)
class Stack:
    """One process's view of a database.

    Attributes:
        counts: every way of counting that must give the same answers.
        raw: runs SQL on a connection of its own and returns the rows; ``None`` where there is no SQL.
    """

    store: MessageStore
    reader: MessageReader
    auditor: Auditor
    box: DeadLetters
    counts: list[Analytics]
    summaries: bool
    raw: Callable[[str], list[Row]] | None = None
    database: Database | None = None

    def analytics(self) -> list[Analytics]:
        return self.counts


@attrs.frozen
class Backend:
    """A migrated, empty database that several processes may open."""

    open: Callable[[], AbstractAsyncContextManager[Stack]]


@asynccontextmanager
async def opened(
    url: str, raw: Callable[[str], list[Row]], *, summaries: bool, driver_fallback: bool = False
) -> AsyncIterator[Stack]:
    database = open_database(url, driver_fallback=driver_fallback)
    try:
        computed = ComputedAnalytics(database)
        yield Stack(
            SqlMessageStore(database, lambda: NOW_US, summaries=summaries),
            SqlMessageReader(database),
            SqlAuditor(database),
            SqlDeadLetters(database, lambda: NOW_US + 1),
            [computed, SummaryAnalytics(database)] if summaries else [computed],
            summaries,
            raw,
            database,
        )
    finally:
        await database.close()


def sqlite_backend(directory: Path, *, summaries: bool) -> Backend:
    path = directory / "chatflow.db"
    url = f"sqlite:///{path}"
    migrate.upgrade(url)

    def raw(sql: str) -> list[Row]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(sql).fetchall()
            connection.commit()
            return rows

    return Backend(lambda: opened(url, raw, summaries=summaries))


def maria_backend(raw: RawMaria, *, summaries: bool, driver_fallback: bool = False) -> Backend:
    return Backend(lambda: opened(raw.url, raw, summaries=summaries, driver_fallback=driver_fallback))


def memory_backend() -> Backend:
    tables = MemoryTables()

    @asynccontextmanager
    async def opened_memory() -> AsyncIterator[Stack]:
        store, later = MemoryStore(lambda: NOW_US, tables), MemoryStore(lambda: NOW_US + 1, tables)
        yield Stack(store, store, store, later, [MemoryAnalytics(tables)], summaries=False)

    return Backend(opened_memory)


MEMORY = "memory"
SQLITE = {"sqlite": False, "sqlite-summaries": True}
MARIADB = {
    "mariadb": {"summaries": False},
    "mariadb-summaries": {"summaries": True},
    "mariadb-fallback": {"summaries": True, "driver_fallback": True},
}
"""The last one does without what asyncmy does not document."""

_clock = itertools.count(NOW_US, 1_000)


def message(room: str = "1", user: int = 7, text: str = "hi", *, at: int | None = None, **fields: object) -> Message:
    accepted = next(_clock) if at is None else at
    known = {"username": f"user{user}", "message_type": "TEXT", "sent_at_us": accepted - 250, "server_id": "gw-1"}
    return Message(
        **{
            "message_id": str(uuid_utils.uuid7()),
            "room_id": room,
            "user_id": user,
            "text": text,
            "accepted_at_us": accepted,
            **known,
            **fields,
        }
    )


def crowd(count: int, *, rooms: int = 3, users: int = 5, seed: int = 1) -> list[Message]:
    """Many messages with many equal acceptance times, over several minutes and hours, names changing."""
    draw = random.Random(seed)
    return [
        message(
            f"r{draw.randrange(rooms)}",
            user := draw.randrange(1, users + 1),
            f"text {number}",
            at=NOW_US + draw.randrange(12) * 17 * MINUTE_US,
            username=f"name{user}{draw.choice('ab')}",
        )
        for number in range(count)
    ]


def newest_first(stored: Iterable[StoredMessage]) -> list[StoredMessage]:
    return sorted(stored, key=lambda each: each.seq, reverse=True)


def history_order(stored: Iterable[StoredMessage]) -> list[StoredMessage]:
    """The order of a user's page."""
    return sorted(stored, key=lambda each: (each.message.accepted_at_us, each.message.room_id, each.seq), reverse=True)


def by_room(stored: Sequence[StoredMessage]) -> dict[str, list[StoredMessage]]:
    rooms: dict[str, list[StoredMessage]] = defaultdict(list)
    for each in stored:
        rooms[each.message.room_id].append(each)
    return rooms
