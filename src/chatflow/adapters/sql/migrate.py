"""Bring a database to this program's schema, and refuse one that has another.

``upgrade`` and ``current`` are synchronous: they are for commands, and start an event loop of their own for MySQL.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import chatflow
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.errors import translated
from chatflow.adapters.sql.mysql.database import session_of
from chatflow.adapters.sql.mysql.url import driver_arguments
from chatflow.adapters.sql.sqlite.engines import TAKE_LOCK, write_engine
from chatflow.adapters.sql.sqlite.files import close_to_others
from chatflow.adapters.sql.sqlite.url import sqlite_path
from chatflow.ports.errors import SchemaMismatch

R = TypeVar("R")

LOCK_NAME = "chatflow.migrate"
LOCK_TIMEOUT_S = 60


def upgrade(url: str) -> list[str]:
    """Apply what is missing and say what that was, oldest first; creates a SQLite file and its directory.

    Two upgrades at once: the second waits and finds nothing to do.

    Raises:
        StoreUnavailable: the database cannot be reached or is locked.
        SchemaMismatch: it is newer than this program.
    """
    if make_url(url).get_backend_name() == "sqlite":
        Path(sqlite_path(url)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _on_connection(url, _upgrade)


def current(url: str) -> str | None:
    """The revision a database is at, ``None`` when it has no schema."""
    return _on_connection(url, _current)


def expected() -> str:
    """The revision this program needs."""
    head = _scripts().get_current_head()
    assert head is not None  # noqa: S101 - the package always carries migrations
    return head


async def check_schema(database: Database) -> None:
    """Pass only when the database is at exactly the revision this program needs.

    Raises:
        SchemaMismatch: it is older or newer; the hint says what to do.
    """
    _check(await database.read(_current))


def migrations_path() -> Path:
    """Where the scripts are: inside an installed package, or beside ``src`` in a checkout."""
    package = Path(chatflow.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def _check(found: str | None, *, older_is_fine: bool = False) -> None:
    needed = expected()
    if found == needed:
        return
    older = found is None or found in {script.revision for script in _scripts().walk_revisions()}
    if older and older_is_fine:
        return
    hint = "run `chatflow migrate`" if older else "this program is older than the database"
    raise SchemaMismatch(found=found, expected=needed, hint=hint, is_newer=not older)


def _upgrade(conn: Connection) -> list[str]:
    if conn.dialect.name == "mysql":
        conn.exec_driver_sql(f"SELECT GET_LOCK('{LOCK_NAME}', {LOCK_TIMEOUT_S})")
    before = _current(conn)
    _check(before, older_is_fine=True)
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
    applied = [script.revision for script in _scripts().iterate_revisions("head", before or "base")]
    return applied[::-1]


def _current(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _on_connection(url: str, fn: Callable[[Connection], R]) -> R:
    with translated():
        if make_url(url).get_backend_name() == "sqlite":
            return _on_sqlite(sqlite_path(url), fn)
        return asyncio.run(_on_mysql(url, fn))


def _on_sqlite(path: str, fn: Callable[[Connection], R]) -> R:
    """One transaction around everything: SQLite rolls DDL back."""
    with suppress(OSError):  # SQLite says better what is wrong
        close_to_others(path)
    engine = write_engine(path, busy_timeout_s=LOCK_TIMEOUT_S, cache_bytes=2**24, checkpoint_pages=1000)
    try:
        with engine.begin() as conn:
            conn.exec_driver_sql(TAKE_LOCK)
            return fn(conn)
    finally:
        engine.dispose()


async def _on_mysql(url: str, fn: Callable[[Connection], R]) -> R:
    address, arguments = driver_arguments(url)
    arguments["init_command"] = session_of(None)
    engine = create_async_engine(address, poolclass=NullPool, connect_args=arguments)
    try:
        async with engine.begin() as conn:
            return await conn.run_sync(fn)
    finally:
        await engine.dispose()
