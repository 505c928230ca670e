"""SQLite's connections: how they are opened, what they may do, and how their transactions begin."""

import sqlite3
import time
import zlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

TAKE_LOCK = "BEGIN IMMEDIATE"
WAL_PAUSE_S = 0.01


def write_engine(path: str, *, busy_timeout_s: float, cache_bytes: int, checkpoint_pages: int) -> Engine:
    """For writes. Each transaction must begin with `TAKE_LOCK`, so that it cannot fail to upgrade later."""
    engine = create_engine(_url(path), poolclass=NullPool, connect_args=_connect_args(busy_timeout_s))
    pragmas = (
        "synchronous=FULL",
        f"cache_size=-{cache_bytes // 1024}",
        f"wal_autocheckpoint={checkpoint_pages}",
    )
    event.listen(engine, "connect", lambda driver, _record: _use_wal(driver, busy_timeout_s))
    event.listen(engine, "connect", _configure(pragmas))
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
