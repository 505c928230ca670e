"""MySQL 8 and MariaDB through asyncmy: a pool that writes and a pool that only reads, kept apart.

What can go wrong with a write, and what follows:

* deadlock, lock wait timeout, lost certification: the whole transaction runs again after a random pause, within the
  same deadline. So it does after a rollback that nobody reported: the commit finds out;
* connection lost, server read-only or shutting down: ``StoreUnavailable``, and every connection is replaced;
* no answer within the deadline, or the caller is cancelled: the outcome is unknown, so the connection is discarded and
  never used again; only a new transaction may follow. The server ends what was left open by itself.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
from sqlalchemy import Connection

from chatflow.adapters.sql.compat import packet_driver
from chatflow.adapters.sql.database import PoolMetrics, Together, select_one
from chatflow.adapters.sql.errors import NoAnswer, TransactionLost, TryAgain, tells_of_rollback, translated
from chatflow.adapters.sql.group_commit import GroupCommit
from chatflow.adapters.sql.limits import READ_DEADLINE_S, READ_QUEUE_LIMIT, READER_POOL, WRITE_DEADLINE_S, WRITER_POOL
from chatflow.adapters.sql.mysql.pools import MysqlPool
from chatflow.adapters.sql.mysql.proven import is_still_open, roll_back
from chatflow.adapters.sql.mysql.url import driver_arguments
from chatflow.domain.resilience.backoff import Backoff
from chatflow.ports.errors import QueryTimeout, StoreOverloaded, StoreUnavailable

R = TypeVar("R")

logger = logging.getLogger("chatflow.store")

FULL_GROUP = 64
"""Messages that earn a transaction of their own while another one is under way."""
APART_S = 0.005
"""Between the starts of two transactions that are not full."""
DEADLOCK = Backoff(first_s=0.005, last_s=0.5)
"""Longest pause before a deadlocked transaction runs again."""
STRICT = "STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


@attrs.define(eq=False)
class MysqlDatabase:
    """Writers at READ COMMITTED, readers read-only in autocommit.

    Args:
        url: ``mysql+asyncmy://...``; ``driver_arguments`` says what it may ask for.
        writer_pool: connections for write transactions.
        reader_pool: connections for reads.
        read_queue_limit: reads that may wait for a connection.
        read_deadline_s: from the call to the answer; the server stops the statement itself.
        write_deadline_s: from the call to the commit, waiting and repeating included.
        driver_fallback: do without what asyncmy does not document, see `compat`.
    """

    url: str
    writer_pool: int = attrs.field(default=WRITER_POOL, kw_only=True)
    reader_pool: int = attrs.field(default=READER_POOL, kw_only=True)
    read_queue_limit: int = attrs.field(default=READ_QUEUE_LIMIT, kw_only=True)
    read_deadline_s: float = attrs.field(default=READ_DEADLINE_S, kw_only=True)
    write_deadline_s: float = attrs.field(default=WRITE_DEADLINE_S, kw_only=True)
    driver_fallback: bool = attrs.field(default=False, kw_only=True)
    _closed: bool = attrs.field(init=False, default=False)
    _reading: int = attrs.field(init=False, default=0)
    _writing: int = attrs.field(init=False, default=0)
    _writers: MysqlPool = attrs.field(init=False)
    _readers: MysqlPool = attrs.field(init=False)
    _snapshots: MysqlPool = attrs.field(init=False)
    _groups: GroupCommit = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._groups = GroupCommit(self._write_alone, lanes=self.writer_pool, full=FULL_GROUP, apart_s=APART_S)
        url, arguments = driver_arguments(self.url)
        writing, reading = writer_session(self.write_deadline_s), reader_session(self.read_deadline_s)
        driver = packet_driver(forced_fallback=self.driver_fallback)
        pool = partial(MysqlPool, url, connect_args=arguments, driver=driver)
        self._writers = pool(self.writer_pool, "READ COMMITTED", session=writing, proves=True)
        self._readers = pool(self.reader_pool, "AUTOCOMMIT", session=reading)
        self._snapshots = pool(1, "REPEATABLE READ", session=reader_session(None), resets=True)

    async def open(self) -> None:
        """See `Lifecycle.open`; the other connections are opened when they are needed."""
        await self.ping()

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        if self._closed:
            raise StoreUnavailable("the database is closed")
        await self.read(select_one)

    @property
    def dialect(self) -> str:
        return "mysql"

    async def write(
        self, fn: Callable[..., R], *args: object, together: Together[R] | None = None, weight: int = 1
    ) -> R:
        if together is None:
            return await self._write_alone(fn, args)
        return await self._in_time(self._groups.write(fn, args, together, weight))

    async def _write_alone(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        try:
            return await self._in_time(self._until_not_deadlocked(fn, args))
        except NoAnswer:
            self._writers.evict()
            raise

    async def _in_time(self, work: Awaitable[R]) -> R:
        try:
            async with asyncio.timeout(self.write_deadline_s):
                return await work
        except TimeoutError as exc:
            raise NoAnswer(f"no commit within {self.write_deadline_s} s") from exc
        except QueryTimeout as exc:  # by an operator, or a limit of the server's
            raise StoreUnavailable(str(exc)) from exc

    async def write_unbounded(self, fn: Callable[..., R], *args: object) -> R:
        return await self._until_not_deadlocked(fn, args)

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        if self._reading >= self.reader_pool + self.read_queue_limit:
            raise StoreOverloaded(f"{self._reading} reads are running or waiting")
        self._reading += 1
        try:
            async with asyncio.timeout(self.read_deadline_s):
                with translated():
                    async with self._readers.engine.connect() as conn:
                        return await conn.run_sync(fn, *args)
        except TimeoutError as exc:
            raise QueryTimeout(f"no answer within {self.read_deadline_s} s") from exc
        finally:
            self._reading -= 1

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        with translated():
            async with self._snapshots.engine.connect() as conn:
                return await conn.run_sync(fn, *args)

    def evict(self) -> None:
        for pool in (self._writers, self._readers, self._snapshots):
            pool.evict()

    async def close(self) -> None:
        self._closed = True
        await self._groups.aclose()
        for pool in (self._readers, self._snapshots, self._writers):
            await pool.dispose()

    def pools(self) -> dict[str, PoolMetrics]:
        """``writer`` and ``reader``; the one connection for snapshots is left out."""
        return {"writer": self._writers.metrics(self._writing), "reader": self._readers.metrics(self._reading)}

    async def _until_not_deadlocked(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        failures = 0
        self._writing += 1
        try:
            while True:
                try:
                    return await self._transaction(fn, args)
                except TryAgain as exc:
                    if isinstance(exc, TransactionLost):
                        logger.warning("a transaction was rolled back unnoticed and is repeated: %s", exc)
                    failures += 1
                    await asyncio.sleep(random.uniform(0, DEADLOCK.pause_s(failures)))
        finally:
            self._writing -= 1

    async def _transaction(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with translated():
            async with self._writers.engine.connect() as conn:
                return await conn.run_sync(_committed, fn, args)


def _committed(conn: Connection, fn: Callable[..., R], args: tuple[object, ...]) -> R:
    """Run ``fn`` and commit what it has not committed itself; roll back what it has left open.

    Raises:
        TransactionLost: an error of a transaction that was not the one begun, and says nothing about that one.
    """
    try:
        result = fn(conn, *args)
        conn.commit()
    except Exception as exc:
        if conn.invalidated:
            raise
        try:
            is_lost = not (tells_of_rollback(exc) or is_still_open(conn))
        finally:
            roll_back(conn)
        if is_lost:
            conn.invalidate(exc)
            raise TransactionLost(str(exc)) from exc
        raise
    return result


def session_of(deadline_s: float | None) -> str:
    """What each session says first. The executable comments reach only the server that knows the variable."""
    session = f"SET SESSION time_zone = '+00:00', sql_mode = '{STRICT}'"
    if deadline_s is None:
        return session
    milliseconds = max(1, int(deadline_s * 1000))
    return f"{session} /*!80000 , max_execution_time = {milliseconds} */ /*M! , max_statement_time = {deadline_s} */"


def reader_session(deadline_s: float | None) -> str:
    """A session that cannot write."""
    return f"{session_of(deadline_s)} /*!80000 , transaction_read_only = 1 */ /*M! , tx_read_only = 1 */"


def writer_session(deadline_s: float) -> str:
    """A session whose locks do not outlive a client that has vanished without a word.

    MariaDB ends a transaction that has been idle for the deadline; MySQL has no such setting, so there the whole
    connection ends when it has been idle for twice as long. A lock is waited for only as long as leaves time to try
    again.
    """
    wait_s, idle_s = max(1, int(deadline_s / 3)), max(1, int(deadline_s))
    limits = f"/*!80000 , wait_timeout = {2 * idle_s} */ /*M! , idle_transaction_timeout = {idle_s} */"
    return f"{session_of(None)}, innodb_lock_wait_timeout = {wait_s} {limits}"


if TYPE_CHECKING:
    from chatflow.adapters.sql.database import Database

    _: type[Database] = MysqlDatabase
