"""Where the store's transactions run: the one seam between SQLite's threads and MySQL's connection pools."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError

from chatflow.adapters.sql.mysql.database import MysqlDatabase
from chatflow.adapters.sql.mysql.pools import PoolMetrics
from chatflow.adapters.sql.sqlite.database import SqliteDatabase

R = TypeVar("R")
Together = Callable[[Connection, Sequence[Any]], Sequence[R]]


class Database(Protocol):
    """Runs synchronous functions that take a connection.

    A function may be run again from the start (deadlock, failed group commit), so it must have no effect outside its
    transaction. Cancelling the caller leaves the transaction whole or rolled back, and the database usable.
    """

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``mysql``."""

    async def write(
        self, fn: Callable[..., R], *args: object, together: Together[R] | None = None, weight: int = 1
    ) -> R:
        """Run ``fn(conn, *args)`` in a write transaction and commit it.

        ``together(conn, [args, ...])`` may stand in for several waiting calls that give the same one; it returns what
        ``fn`` would have returned to each, or raises, and then each runs alone. ``weight``: messages in this call.

        Raises:
            StoreUnavailable: the outcome is unknown.
            StoreError: what ``fn`` met, translated; nothing was written.
        """

    async def read(self, fn: Callable[..., R], *args: object) -> R:
        """Run ``fn(conn, *args)`` on a reader; each of its statements sees whole transactions only.

        Raises:
            StoreOverloaded: too many reads are waiting.
            QueryTimeout: the deadline passed; the statement has been stopped.
            StoreUnavailable: the database did not answer.
        """

    async def snapshot(self, fn: Callable[..., R], *args: object) -> R:
        """Like ``read`` without a deadline, all statements of ``fn`` on one consistent snapshot."""

    async def dispose(self) -> None:
        """Finish what runs, close every connection, stop every thread; idempotent."""


def evict(database: Database) -> None:
    """Trust no connection to a server that is open now; call it when the breaker trips.

    SQLite has no server, and its writer opens a fresh connection after every failure anyway.
    """
    if isinstance(database, MysqlDatabase):
        database.evict()


def pools(database: Database) -> dict[str, PoolMetrics]:
    """Counts of the ``writer`` and the ``reader`` pool; empty for SQLite, which has threads instead."""
    return database.pools() if isinstance(database, MysqlDatabase) else {}


async def write_at_leisure(database: Database, fn: Callable[..., R], *args: object) -> R:
    """``database.write`` without a deadline, for work on whole tables."""
    if isinstance(database, MysqlDatabase):
        return await database.write_at_leisure(fn, *args)
    return await database.write(fn, *args)


def open_database(
    url: str,
    *,
    writer_pool: int = 10,
    reader_pool: int = 20,
    read_queue_limit: int = 200,
    read_deadline_s: float = 5.0,
    write_deadline_s: float = 10.0,
) -> Database:
    """A database for this URL; nothing is connected yet.

    SQLite has one writer whatever ``writer_pool`` says, and at most four reader threads: more would only fight
    over the interpreter. ``write_deadline_s`` is for servers: a local file answers.

    Raises:
        ValueError: the URL is malformed, in memory, or of an unknown kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ValueError(f"database URL: {exc}") from exc
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return SqliteDatabase(
            sqlite_path(url),
            readers=min(reader_pool, 4),
            read_queue_limit=read_queue_limit,
            read_deadline_s=read_deadline_s,
        )
    if backend not in {"mysql", "mariadb"}:
        raise ValueError(f"database URL: {backend} is neither sqlite nor mysql")
    return MysqlDatabase(
        url,
        writer_pool=writer_pool,
        reader_pool=reader_pool,
        read_queue_limit=read_queue_limit,
        read_deadline_s=read_deadline_s,
        write_deadline_s=write_deadline_s,
    )


def sqlite_path(url: str) -> str:
    """The file of a SQLite URL.

    Raises:
        ValueError: it names none: threads cannot share an in-memory database.
    """
    path = make_url(url).database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise ValueError("database URL: SQLite needs a plain file path")
    return path
