"""Migrated databases on the tests' private MariaDB, and a raw connection to each that trusts nothing of the store."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import asyncmy
import attrs
import pytest
from asyncmy.errors import OperationalError
from sqlalchemy import make_url

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.schema import metadata
from tests.harness import MariaServer

TABLES = [table.name for table in metadata.sorted_tables]
Row = tuple[Any, ...]

# Each module that imports the fixture has schemas of its own, on the same server.
_numbers = itertools.count(1)


@attrs.define(eq=False)
class RawMaria:
    """SQL on a connection of its own in a thread of its own: callable from a test with or without a running loop."""

    url: str
    _thread: ThreadPoolExecutor = attrs.field(factory=lambda: ThreadPoolExecutor(1), init=False)
    _runner: asyncio.Runner = attrs.field(factory=asyncio.Runner, init=False)
    _connection: Any = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def __call__(self, sql: str) -> list[Row]:
        """Run statements; the rows of the first, in autocommit."""
        return self._thread.submit(lambda: self._runner.run(self._query(sql))).result()

    async def _query(self, sql: str) -> list[Row]:
        if self._connection is None:
            address = make_url(self.url)
            self._connection = await asyncmy.connect(
                host=address.host,
                port=address.port,
                user=address.username,
                password=address.password,
                database=address.database,
                autocommit=True,
            )
        await self._connection.ping()  # connects again when an earlier test has killed the server
        async with self._connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall()) if cursor.description else []

    def _close(self) -> None:
        if self._connection is not None:
            self._runner.run(self._connection.ensure_closed())
        self._runner.close()


@attrs.define(eq=False)
class MariaSchemas:
    """Makes databases of this program's schema: migrated once, then copied table by table or emptied."""

    server: MariaServer
    template: str
    _reused: RawMaria | None = attrs.field(default=None, init=False)

    def fresh(self) -> str:
        """Url of a new database; the name matches what the server lets clients own."""
        name = f"test_copy_{next(_numbers)}"
        copies = [f"CREATE TABLE {name}.{table} LIKE {self.template}.{table}" for table in (*TABLES, "alembic_version")]
        version = f"INSERT INTO {name}.alembic_version SELECT * FROM {self.template}.alembic_version"
        self.server.execute("; ".join([f"CREATE DATABASE {name}", *copies, version]))
        return self.server.url(name)

    def emptied(self) -> RawMaria:
        """A database that the worker's tests use one after the other, without rows."""
        if self._reused is None:
            self._reused = RawMaria(self.fresh())
        try:
            self._empty(self._reused)
        except OperationalError:  # another test has killed the server since
            lost, self._reused = self._reused, RawMaria(self._reused.url)
            lost.__exit__()
            self._empty(self._reused)
        return self._reused

    @staticmethod
    def _empty(raw: RawMaria) -> None:
        for table in TABLES:
            raw(f"DELETE FROM {table}")

    def close(self) -> None:
        if self._reused is not None:
            self._reused.__exit__()


@pytest.fixture(scope="session")
def maria_schemas(maria_server: MariaServer) -> Iterator[MariaSchemas]:
    maria_server.make_ready()  # the module before may have left it stopped
    template = maria_server.database()
    with ThreadPoolExecutor(1) as thread:  # the command starts an event loop of its own
        thread.submit(migrate.upgrade, maria_server.url(template)).result()
    schemas = MariaSchemas(maria_server, template)
    yield schemas
    schemas.close()


@pytest.fixture
def fresh_url(maria_server: MariaServer, maria_schemas: MariaSchemas) -> Iterator[str]:
    """``mysql+asyncmy://`` url of a migrated, empty database of this test's own."""
    maria_server.make_ready()
    url = maria_schemas.fresh()
    yield url
    if maria_server.is_running:
        maria_server.make_ready()
        maria_server.drop(str(make_url(url).database))


@pytest.fixture
def raw_maria(fresh_url: str) -> Iterator[Callable[[str], list[Row]]]:
    """Runs SQL in the database of ``fresh_url``."""
    with RawMaria(fresh_url) as raw:
        yield raw
