"""From a URL to the database that it names."""

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.limits import READ_DEADLINE_S, READ_QUEUE_LIMIT, READER_POOL, WRITE_DEADLINE_S, WRITER_POOL
from chatflow.adapters.sql.mysql.database import MysqlDatabase
from chatflow.adapters.sql.sqlite.database import SqliteDatabase
from chatflow.adapters.sql.sqlite.url import sqlite_path


def open_database(
    url: str,
    *,
    writer_pool: int = WRITER_POOL,
    reader_pool: int = READER_POOL,
    read_queue_limit: int = READ_QUEUE_LIMIT,
    read_deadline_s: float = READ_DEADLINE_S,
    write_deadline_s: float = WRITE_DEADLINE_S,
    driver_fallback: bool = False,
) -> Database:
    """A database for this URL; nothing is connected yet.

    SQLite has one writer whatever ``writer_pool`` says, and at most four reader threads: more would only fight
    over the interpreter. ``write_deadline_s`` and ``driver_fallback`` are for servers.

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
        driver_fallback=driver_fallback,
    )
