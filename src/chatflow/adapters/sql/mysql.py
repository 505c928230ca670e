"""MySQL 8 and MariaDB through asyncmy: a pool that writes and a pool that only reads, kept apart."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from chatflow.adapters.sql.errors import TryAgain, translated
from chatflow.ports.errors import QueryTimeout, StoreOverloaded, StoreUnavailable

if TYPE_CHECKING:
    from chatflow.adapters.sql.database import Together

R = TypeVar("R")

DEADLOCK_ATTEMPTS = 8
DEADLOCK_PAUSE_S = 0.01
"""Longest first pause before a deadlocked transaction runs again; it doubles with each attempt."""
STRICT = "STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


@attrs.define(eq=False)
class MysqlDatabase:
    """Writers at READ COMMITTED, readers read-only in autocommit.

    Args:
        url: ``mysql+asyncmy://...``.
        writer_pool: connections for write transactions.
        reader_pool: connections for reads.
        read_queue_limit: reads that may wait for a connection.
        read_deadline_s: from the call to the answer; the server stops the statement itself.
    """

    url: str
    writer_pool: int = attrs.field(default=10, kw_only=True)
    reader_pool: int = attrs.field(default=20, kw_only=True)
    read_queue_limit: int = attrs.field(default=200, kw_only=True)
    read_deadline_s: float = attrs.field(default=5.0, kw_only=True)
    _reading: int = attrs.field(init=False, default=0)
    _writers: AsyncEngine = attrs.field(init=False)
    _readers: AsyncEngine = attrs.field(init=False)
    _snapshots: AsyncEngine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._writers = _engine(self.url, self.writer_pool, "READ COMMITTED", session_of(None))
        self._readers = _engine(self.url, self.reader_pool, "AUTOCOMMIT", session_of(self.read_deadline_s))
        self._snapshots = _engine(self.url, 1, "REPEATABLE READ", session_of(None))

    @property
    def dialect(self) -> str:
        return "mysql"

    async def write(self, fn: Callable[..., R], *args: object, together: "Together[R] | None" = None) -> R:
        """Alone: here writers do not wait for each other."""
        for attempt in range(DEADLOCK_ATTEMPTS):
            try:
                return await self._transaction(fn, args)
            except TryAgain:
                await asyncio.sleep(random.uniform(0, DEADLOCK_PAUSE_S * 2**attempt))
        raise StoreUnavailable(f"deadlocked {DEADLOCK_ATTEMPTS} times in a row")

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        if self._reading >= self.reader_pool + self.read_queue_limit:
            raise StoreOverloaded(f"{self._reading} reads are running or waiting")
        self._reading += 1
        try:
            async with asyncio.timeout(self.read_deadline_s):
                with translated():
                    async with self._readers.connect() as conn:
                        return await conn.run_sync(fn, *args)
        except TimeoutError as exc:
            raise QueryTimeout(f"no answer within {self.read_deadline_s} s") from exc
        finally:
            self._reading -= 1

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        with translated():
            async with self._snapshots.connect() as conn:
                return await conn.run_sync(fn, *args)

    async def dispose(self) -> None:
        for engine in (self._readers, self._snapshots, self._writers):
            await engine.dispose()

    async def _transaction(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with translated():
            async with self._writers.begin() as conn:
                return await conn.run_sync(fn, *args)


def session_of(deadline_s: float | None) -> str:
    """What each session says first. The executable comments reach only the server that knows the variable."""
    session = f"SET SESSION time_zone = '+00:00', sql_mode = '{STRICT}'"
    if deadline_s is None:
        return session
    limits = f" /*!80000 , max_execution_time = {int(deadline_s * 1000)} */ /*M! , max_statement_time = {deadline_s} */"
    return session + limits


def _engine(url: str, size: int, isolation: Any, session: str) -> AsyncEngine:
    return create_async_engine(
        url,
        isolation_level=isolation,
        pool_size=size,
        max_overflow=0,
        pool_recycle=3600,
        connect_args={"init_command": session, "connect_timeout": 5},
    )


if TYPE_CHECKING:
    from chatflow.adapters.sql.database import Database

    _: type[Database] = MysqlDatabase
