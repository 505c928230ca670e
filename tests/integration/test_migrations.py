"""The migrations make exactly the tables of the metadata, and a program refuses a schema that is not its own."""

import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.schema import metadata
from chatflow.ports.errors import SchemaMismatch, StoreUnavailable


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/new directory/100%.db"


@pytest.fixture
def file(url):
    return url.removeprefix("sqlite:///")


def run(file: str, sql: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(sql)


def described(engine) -> dict[str, object]:
    """Everything the inspector and SQLite itself know of each table."""
    seen = inspect(engine)
    with engine.connect() as conn:
        rowids = {row[1]: row[4] for row in conn.exec_driver_sql("PRAGMA table_list").all()}
    return {
        name: {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)],
            "primary key": seen.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted((u["name"], u["column_names"]) for u in seen.get_unique_constraints(name)),
            "indexes": sorted((i["name"], i["column_names"]) for i in seen.get_indexes(name)),
            "checks": sorted((c["name"], c["sqltext"]) for c in seen.get_check_constraints(name)),
            "without rowid": rowids[name],
        }
        for name in seen.get_table_names()
        if name != "alembic_version"
    }


def test_upgrading_reports_each_revision_once(url):
    applied = migrate.upgrade(url)
    assert applied[0] == "0001"
    assert applied[-1] == migrate.expected() == migrate.current(url)
    assert migrate.upgrade(url) == []


def test_migrations_make_exactly_the_tables_of_the_metadata(url, file, tmp_path):
    migrate.upgrade(url)
    migrated, created = create_engine(f"sqlite:///{file}"), create_engine(f"sqlite:///{tmp_path}/created.db")
    metadata.create_all(created)
    with migrated.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata) == []
    assert described(migrated) == described(created)
    migrated.dispose()
    created.dispose()


def take_back(url: str, revision: str) -> None:
    """Downgrade to this revision."""

    def downgrade(conn):
        config = migrate._config()
        config.attributes["connection"] = conn
        command.downgrade(config, revision)

    migrate._on_connection(url, downgrade)


def test_every_migration_can_be_taken_back(url, file):
    migrate.upgrade(url)
    take_back(url, "base")
    with closing(sqlite3.connect(file)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("alembic_version",)]
    assert migrate.current(url) is None
    assert migrate.upgrade(url)[-1] == migrate.expected()


async def test_a_current_schema_passes(url):
    migrate.upgrade(url)
    database = open_database(url)
    await migrate.check_schema(database)
    await database.close()


@pytest.mark.parametrize(
    ("change", "found", "hint"),
    [
        ("DROP TABLE alembic_version", None, "run `chatflow migrate`"),
        ("UPDATE alembic_version SET version_num = '0001'", "0001", "run `chatflow migrate`"),
        ("UPDATE alembic_version SET version_num = '9999'", "9999", "this program is older than the database"),
    ],
)
async def test_another_schema_is_refused_with_what_to_do(url, file, change, found, hint):
    migrate.upgrade(url)
    run(file, change)
    database = open_database(url)
    with pytest.raises(SchemaMismatch, match=hint) as refused:
        await migrate.check_schema(database)
    assert (refused.value.found, refused.value.expected) == (found, migrate.expected())
    await database.close()


def test_upgrading_a_newer_schema_is_refused_and_changes_nothing(url, file):
    migrate.upgrade(url)
    run(file, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="older than the database"):
        migrate.upgrade(url)
    assert migrate.current(url) == "9999"


@pytest.mark.parametrize(("heads", "expected"), [([], []), ([("a", 3), ("b", 4)], [("", -1, 0, 7, 0)])])
def test_what_was_stored_before_processors_counted_is_one_row_of_nobody(url, file, heads, expected):
    migrate.upgrade(url)
    take_back(url, "0008")
    for room, last_seq in heads:
        run(file, f"INSERT INTO room_heads VALUES ('{room}', {last_seq})")
    assert migrate.upgrade(url)[:2] == ["0009", "0010"]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT * FROM commit_counts").fetchall() == expected


def test_two_upgrades_at_once_apply_everything_once(url):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        answers = list(processes.map(migrate.upgrade, [url, url]))
    assert sorted(answers, key=len) == [[], [f"{number:04d}" for number in range(1, int(migrate.expected()) + 1)]]


def test_a_database_that_cannot_be_opened_is_unavailable(url, tmp_path):
    (tmp_path / "new directory").mkdir()
    (tmp_path / "new directory" / "100%.db").mkdir()
    with pytest.raises(StoreUnavailable):
        migrate.upgrade(url)


def test_a_failed_upgrade_leaves_no_half_schema(url, file):
    migrate.upgrade(f"{url}.other")
    run(file, "CREATE TABLE dead_letter_messages (id INTEGER)")
    with pytest.raises(StoreUnavailable, match="already exists"):
        migrate.upgrade(url)
    assert migrate.current(url) is None
    with closing(sqlite3.connect(file)) as raw:
        names = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert names == [("dead_letter_messages",)]
