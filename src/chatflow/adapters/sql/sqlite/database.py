"""SQLite on its own threads: one writer, a few readers, and one hop per transaction.

aiosqlite would hop to its thread for every statement. Here whole transactions travel: the writer thread takes all that
wait, runs them in one transaction and pays for one ``fsync`` (group commit). When one of them fails, the group is
rolled back and each runs alone, so that every caller gets exactly the outcome it would have had by itself.
"""

import asyncio
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from chatflow.adapters.sql.database import PoolMetrics, Together
from chatflow.adapters.sql.errors import translated
from chatflow.ports.errors import QueryTimeout, StoreOverloaded, StoreUnavailable

if TYPE_CHECKING:
    from chatflow.adapters.sql.database import Database

R = TypeVar("R")

GROUP_LIMIT = 64
"""Transactions per commit; more wait for the next one."""
WAL_PAUSE_S = 0.01
STOP_INTERVAL_S = 0.05
"""An abandoned read is interrupted this often until it has ended: an interrupt between two statements has no effect."""


@attrs.define(eq=False)
class _Write:
    """A transaction that waits for the writer thread."""

    fn: Callable[..., Any]
    args: tuple[object, ...]
    together: Together[Any] | None
    caller: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        """Tell the caller, on its loop; a cancelled one is past hearing."""
        if self.caller.done():
            return
        if self.error is None:
            self.caller.set_result(self.result)
        else:
            self.caller.set_exception(self.error)


@attrs.define(eq=False)
class _Read:
    """A read whose statement can be stopped from the event loop's thread."""

    abandoned: bool = False
    _driver: Any = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @contextmanager
    def running_on(self, conn: Connection) -> Iterator[None]:
        with self._lock:
            if self.abandoned:
                raise QueryTimeout("the deadline passed before a reader was free")
            self._driver = conn.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._driver = None

    def stop(self) -> None:
        """Interrupt the statement under way; the lock keeps the interrupt from the connection's next user."""
        with self._lock:
            self.abandoned = True
            if self._driver is not None:
                self._driver.interrupt()


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
    read_queue_limit: int = attrs.field(default=200, kw_only=True)
    read_deadline_s: float = attrs.field(default=5.0, kw_only=True)
    busy_timeout_s: float = attrs.field(default=5.0, kw_only=True)
    cache_bytes: int = attrs.field(default=128 * 2**20, kw_only=True)
    checkpoint_pages: int = attrs.field(default=16_000, kw_only=True)
    _waiting: deque[_Write] = attrs.field(init=False, factory=deque)
    _reading: int = attrs.field(init=False, default=0)
    _closed: bool = attrs.field(init=False, default=False)
    _writer_conn: Connection | None = attrs.field(init=False, default=None)
    _write_engine: Engine = attrs.field(init=False)
    _read_engine: Engine = attrs.field(init=False)
    _writer: ThreadPoolExecutor = attrs.field(init=False)
    _reader: ThreadPoolExecutor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._reader = ThreadPoolExecutor(self.readers, thread_name_prefix="sqlite-reader")
        self._write_engine = write_engine(
            self.path,
            busy_timeout_s=self.busy_timeout_s,
            cache_bytes=self.cache_bytes,
            checkpoint_pages=self.checkpoint_pages,
        )
        self._read_engine = read_engine(self.path, readers=self.readers, busy_timeout_s=self.busy_timeout_s)

    @property
    def dialect(self) -> str:
        return "sqlite"

    async def write(
        self, fn: Callable[..., R], *args: object, together: Together[R] | None = None, weight: int = 1
    ) -> R:
        caller: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(fn, args, together, caller))
        _submit(self._writer, self._drain)
        return await caller

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        return await self._read(fn, args, self._run_read, self.read_deadline_s)

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        return await self._read(fn, args, self._run_snapshot, None)

    async def write_unbounded(self, fn: Callable[..., R], *args: object) -> R:
        return await self.write(fn, *args)

    def evict(self) -> None:
        """There is no server whose connections could go stale."""

    def pools(self) -> Mapping[str, PoolMetrics]:
        return {}

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._writer.submit(self._close_writer)
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._reader.shutdown()
        self._writer.shutdown()
        self._read_engine.dispose()
        self._write_engine.dispose()

    async def _read(
        self, fn: Callable[..., R], args: tuple[object, ...], run: Callable[..., R], deadline_s: float | None
    ) -> R:
        if self._reading >= self.readers + self.read_queue_limit:
            raise StoreOverloaded(f"{self._reading} reads are running or waiting")
        job = _Read()
        future = _submit(self._reader, run, job, fn, args)
        self._reading += 1
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.wrap_future(future)
        except TimeoutError as exc:
            raise QueryTimeout(f"no answer within {deadline_s} s") from exc
        finally:
            self._reading -= 1
            _stop(job, future)

    def _run_read(self, job: _Read, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with translated(), self._read_engine.connect() as conn, job.running_on(conn):
            return fn(conn, *args)

    def _run_snapshot(self, job: _Read, fn: Callable[..., R], args: tuple[object, ...]) -> R:
        with translated(), self._read_engine.connect() as conn, job.running_on(conn):
            conn.exec_driver_sql("BEGIN")
            try:
                return fn(conn, *args)
            finally:
                conn.exec_driver_sql("ROLLBACK")

    def _drain(self) -> None:
        """Commit what waits, as one group; every caller submits a drain, and most of them find nothing left."""
        group: list[_Write] = []
        while self._waiting and len(group) < GROUP_LIMIT:
            job = self._waiting.popleft()
            if not job.caller.cancelled():
                group.append(job)
        if group:
            self._commit(group)
            group[0].caller.get_loop().call_soon_threadsafe(_settle, group)

    def _commit(self, group: list[_Write]) -> None:
        try:
            self._run_group(group)
        except StoreUnavailable as exc:
            self._close_writer()  # whatever the connection's state is, the next transaction starts on a fresh one
            for job in group:
                job.error = exc
        except Exception as exc:  # noqa: BLE001 - the caller's, whatever it is
            if len(group) == 1:
                group[0].error = exc
                return
            for job in group:
                self._commit([job])

    def _run_group(self, group: list[_Write]) -> None:
        with translated():
            if self._writer_conn is None:
                self._writer_conn = self._write_engine.connect()
            with self._writer_conn.begin():
                for together, jobs in groupby(group, key=attrgetter("together")):
                    _run(self._writer_conn, together, list(jobs))
                if not self._writer_conn.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                    raise StoreUnavailable("the transaction was ended before its commit")

    def _close_writer(self) -> None:
        conn, self._writer_conn = self._writer_conn, None
        if conn is not None:
            with suppress(SQLAlchemyError):
                conn.close()


def _run(conn: Connection, together: Together[Any] | None, jobs: list[_Write]) -> None:
    """Run neighbours that can run together as one, all others one by one."""
    if together is not None and len(jobs) > 1:
        for job, result in zip(jobs, together(conn, [job.args for job in jobs]), strict=True):
            job.result = result
    else:
        for job in jobs:
            job.result = job.fn(conn, *job.args)


def _submit(executor: ThreadPoolExecutor, fn: Callable[..., R], *args: object) -> Future[R]:
    try:
        return executor.submit(fn, *args)
    except RuntimeError as exc:
        raise StoreUnavailable("the database is closed") from exc


def _settle(group: list[_Write]) -> None:
    for job in group:
        job.settle()


def _stop(job: _Read, future: Future[Any]) -> None:
    """Make sure that nobody computes an answer that nobody waits for."""
    if not future.done():
        job.stop()
        asyncio.get_running_loop().call_later(STOP_INTERVAL_S, _stop, job, future)


def write_engine(path: str, *, busy_timeout_s: float, cache_bytes: int, checkpoint_pages: int) -> Engine:
    """Every transaction takes the write lock at its start, so that it cannot fail to upgrade later."""
    engine = create_engine(_url(path), poolclass=NullPool, connect_args=_connect_args(busy_timeout_s))
    pragmas = (
        "synchronous=FULL",
        f"cache_size=-{cache_bytes // 1024}",
        f"wal_autocheckpoint={checkpoint_pages}",
    )
    event.listen(engine, "connect", lambda driver, _record: _use_wal(driver, busy_timeout_s))
    event.listen(engine, "connect", _configure(pragmas))
    event.listen(engine, "begin", _begin_immediate)
    return engine


def read_engine(path: str, *, readers: int, busy_timeout_s: float) -> Engine:
    """Connections that cannot write; each statement is its own transaction unless the caller begins one."""
    engine = create_engine(
        _url(path),
        poolclass=QueuePool,
        pool_size=readers,
        max_overflow=0,
        pool_reset_on_return=None,
        connect_args=_connect_args(busy_timeout_s),
    )
    event.listen(engine, "connect", _configure(("cache_size=-16384", "query_only=ON")))
    event.listen(engine, "connect", _add_functions)
    return engine


def _url(path: str) -> URL:
    return URL.create("sqlite+pysqlite", database=path)


def _connect_args(busy_timeout_s: float) -> dict[str, object]:
    return {
        "timeout": busy_timeout_s,
        "isolation_level": None,
        "check_same_thread": False,
        "cached_statements": 256,
    }


def _use_wal(driver: Any, patience_s: float) -> None:
    """Make the database a WAL one, once in its life; SQLite does not wait by itself for others that do the same."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            driver.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() >= deadline:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


def _configure(pragmas: tuple[str, ...]) -> Callable[[Any, Any], None]:
    def on_connect(driver: Any, _record: Any) -> None:
        for pragma in pragmas:
            driver.execute(f"PRAGMA {pragma}").close()

    return on_connect


def _add_functions(driver: Any, _record: Any) -> None:
    """What MySQL has of its own: CRC-32 of a text."""
    driver.create_function("crc32", 1, lambda text: zlib.crc32(text.encode()), deterministic=True)


def _begin_immediate(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE")


if TYPE_CHECKING:
    _: type[Database] = SqliteDatabase
