"""Open the database for a command."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.sqlite.url import sqlite_path
from chatflow.entrypoints.roles.process import StartError
from chatflow.entrypoints.settings import Common


@contextlib.asynccontextmanager
async def open_existing(common: Common) -> AsyncIterator[Database]:
    """The database of these settings, at the schema that this program needs.

    Raises:
        StartError: an embedded database that does not exist.
        SchemaMismatch: it is older or newer.
    """
    _check_exists(common.database_url)
    database = open_database(
        common.database_url,
        read_deadline_s=common.read_deadline_s,
        write_deadline_s=common.write_deadline_s,
        driver_fallback=common.driver_fallback,
    )
    try:
        await database.open()
        await migrate.check_schema(database)
        yield database
    finally:
        await database.close()


def _check_exists(url: str) -> None:
    """SQLite would create the file."""
    if url.startswith("sqlite") and not (path := Path(sqlite_path(url))).exists():
        raise StartError(f"there is no database at {path}: set CHATFLOW_DATA_DIR or CHATFLOW_DATABASE_URL")
