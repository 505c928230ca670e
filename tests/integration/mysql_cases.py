"""Stores on the tests' MariaDB, the loop that a processor runs over them, and the verdict of an audit."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
from sqlalchemy import Connection

from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.mysql.database import MysqlDatabase
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.messages import Message
from chatflow.ports.store import Appended
from tests.contract.store_cases import NOW_US, message

PATIENCE_S = 30.0
SLACK_S = 15.0
"""What a busy machine may add to a deadline."""


@attrs.frozen(eq=False)
class Process:
    """What one processor has of the database."""

    database: MysqlDatabase
    store: SqlMessageStore

    async def until_stored(self, batch: Sequence[Message]) -> Appended:
        """Repeat as a processor does: the same messages, for as long as the store is unavailable."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.store.append_batch(batch)
            except StoreUnavailable:
                assert time.monotonic() < deadline, "the store did not come back"
                await asyncio.sleep(0.02)


@asynccontextmanager
async def process(url: str, *, summaries: bool = True, **numbers: Any) -> AsyncIterator[Process]:
    database = MysqlDatabase(url, **numbers)
    try:
        yield Process(database, SqlMessageStore(database, lambda: NOW_US, summaries=summaries))
    finally:
        await database.close()


async def assert_sound(url: str, total: int) -> None:
    """Every row once, no gap, summaries equal to a recount; on connections that met no fault."""
    async with process(url) as clean:
        assert await SqlAuditor(clean.database).recount(summaries=True) == (total, [])


def batches(count: int, size: int, *, rooms: int = 3) -> list[list[Message]]:
    return [[message(f"r{number % rooms}", number % 7 + 1) for number in range(size)] for _ in range(count)]


def connection_id(conn: Connection) -> int:
    return int(conn.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
