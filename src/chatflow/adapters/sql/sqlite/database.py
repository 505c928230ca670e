"""SQLite on its own threads: one writer, a few readers, and one hop per transaction.

An asynchronous driver would hop to its thread for every statement. Here whole transactions travel, and calls that wait
for the writer go together in one (group commit), which pays for one ``fsync``.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

import attrs
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from chatflow.adapters.sql.database import PoolMetrics, Together, select_one
from chatflow.adapters.sql.errors import DRIVER_ERRORS, NoAnswer, translate
from chatflow.adapters.sql.group_commit import GroupCommit
from chatflow.adapters.sql.limits import READ_DEADLINE_S, READ_QUEUE_LIMIT
from chatflow.adapters.sql.sqlite.engines import TAKE_LOCK, read_engine, write_engine
from chatflow.adapters.sql.sqlite.reads import InterruptibleRead, stop_until_done
from chatflow.ports.errors import QueryTimeout, StoreOverloaded, StoreUnavailable

R = TypeVar("R")

FULL_GROUP = 24_000
"""Messages per transaction, about: eight partitions' largest batches. A larger one writes fewer pages per message."""


@attrs.define(eq=False)
class SqliteDatabase:
    """One database file in WAL mode with ``synchronous=FULL``: a commit that returned survives a power cut.

    Args:
        path: the file; its directory must exist.
        readers: reader threads, each with a connection of its own.
        read_queue_limit: reads that may wait for a thread.
        read_deadline_s: from the call to the answer, waiting included.
        busy_timeout_s: how long a write waits for another process's lock.
        cache_bytes: the writer's page cache.
        checkpoint_pages: length of the write-ahead log at which a commit moves it into the database.
    """

    path: str
    readers: int = attrs.field(default=4, kw_only=True)
    read_queue_limit: int = attrs.field(default=READ_QUEUE_LIMIT, kw_only=True)
    read_deadline_s: float = attrs.field(default=READ_DEADLINE_S, kw_only=True)
    busy_timeout_s: float = attrs.field(default=5.0, kw_only=True)
    cache_bytes: int = attrs.field(default=128 * 2**20, kw_only=True)
    checkpoint_pages: int = attrs.field(default=16_000, kw_only=True)
    _groups: GroupCommit = attrs.field(init=False)
    _reading: int = attrs.field(init=False, default=0)
    _closed: bool = attrs.field(init=False, default=False)
    _writer_conn: Connection | None = attrs.field(init=False, default=None)
    _is_writing: bool = attrs.field(init=False, default=False)
    _write_engine: Engine = attrs.field(init=False)
    _read_engine: Engine = attrs.field(init=False)
    _writer: ThreadPoolExecutor = attrs.field(init=False)
    _reader: ThreadPoolExecutor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._groups = GroupCommit(self._transaction, lanes=1, full=FULL_GROUP)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._reader = ThreadPoolExecutor(self.readers, thread_name_prefix="sqlite-reader")
        self._write_engine = write_engine(
            self.path,
            busy_timeout_s=self.busy_timeout_s,
            cache_bytes=self.cache_bytes,
            checkpoint_pages=self.checkpoint_pages,
        )
        self._read_engine = read_engine(self.path, readers=self.readers, busy_timeout_s=self.busy_timeout_s)

    async def open(self) -> None:
        """See `Lifecycle.open`; the other connections are opened when they are needed."""
        await self.ping()

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        await self.read(select_one)

    @property
    def dialect(self) -> str:
        return "sqlite"

    async def write(
        self, fn: Callable[..., R], *args: object, together: Together[R] | None = None, weight: int = 1
    ) -> R:
        return await self._groups.write(fn, args, together, weight)

    async def write_unbounded(self, fn: Callable[..., R], *args: object) -> R:
        return await self.write(fn, *args)

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        return await self._read(fn, args, self._run_read, self.read_deadline_s)

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        return await self._read(fn, args, self._run_snapshot, None)

    def evict(self) -> None:
        """There is no server whose connections could go stale."""

    def pools(self) -> Mapping[str, PoolMetrics]:
        readers = cast("QueuePool", self._read_engine.pool)
        active, idle = readers.checkedout(), readers.checkedin()
        writing = int(self._is_writing)
        open_writers = max(writing, int(self._writer_conn is not None))
        return {
            "writer": PoolMetrics(1, writing, open_writers - writing, open_writers, self._groups.waiting),
            "reader": PoolMetrics(self.readers, active, idle, active + idle, max(0, self._reading - self.readers)),
        }

    async def close(self) -> None:
        await self._groups.finish()
        if not self._closed:
            self._closed = True
            self._writer.submit(self._close_writer)
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._reader.shutdown()
        self._writer.shutdown()
        self._read_engine.dispose()
        self._write_engine.dispose()

    async def _transaction(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        return await asyncio.wrap_future(_submit(self._writer, self._run_write, fn, args))

    def _run_write(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        self._is_writing = True
        try:
            return self._committed(fn, args)
        except StoreUnavailable as exc:
            raise self._failed(exc) from exc
        except DRIVER_ERRORS as exc:
            meaning = translate(exc)
            raise (self._failed(meaning) if isinstance(meaning, StoreUnavailable) else meaning) from exc
        finally:
            self._is_writing = False

    def _committed(self, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        if self._writer_conn is None:
            self._writer_conn = self._write_engine.connect()
        with self._writer_conn.begin():
            self._writer_conn.exec_driver_sql(TAKE_LOCK)
            result = fn(self._writer_conn, *args)
            _check_open(self._writer_conn)
        return result

    def _failed(self, reason: StoreUnavailable) -> NoAnswer:
        """Whatever the connection's state is, the next transaction starts on a fresh one."""
        self._close_writer()
        return NoAnswer(str(reason))

    def _close_writer(self) -> None:
        conn, self._writer_conn = self._writer_conn, None
        if conn is not None:
            with suppress(SQLAlchemyError):
                conn.close()

    async def _read(
        self, fn: Callable[..., R], args: tuple[object, ...], run: Callable[..., R], deadline_s: float | None
    ) -> R:
        if self._reading >= self.readers + self.read_queue_limit:
            raise StoreOverloaded(f"{self._reading} reads are running or waiting")
        job = InterruptibleRead()
        future = _submit(self._reader, run, job, fn, args)
        self._reading += 1
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.wrap_future(future)
        except TimeoutError as exc:
            raise QueryTimeout(f"no answer within {deadline_s} s") from exc
        except DRIVER_ERRORS as exc:
            raise translate(exc) from exc
        finally:
            self._reading -= 1
            stop_until_done(job, future)

    def _run_read(self, job: InterruptibleRead, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with self._read_engine.connect() as conn, job.running_on(conn):
            return fn(conn, *args)

    def _run_snapshot(self, job: InterruptibleRead, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with self._read_engine.connect() as conn, job.running_on(conn):
            conn.exec_driver_sql("BEGIN")
            try:
                return fn(conn, *args)
            finally:
                conn.exec_driver_sql("ROLLBACK")


def _check_open(conn: Connection) -> None:
    """Refuse to commit what follows the end of the transaction that was begun."""
    if not conn.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        raise StoreUnavailable("the transaction was ended before its commit")


def _submit(executor: ThreadPoolExecutor, fn: Callable[..., R], *args: object) -> Future[R]:
    try:
        return executor.submit(fn, *args)
    except RuntimeError as exc:
        raise StoreUnavailable("the database is closed") from exc


if TYPE_CHECKING:
    from chatflow.adapters.sql.database import Database

    _: type[Database] = SqliteDatabase
