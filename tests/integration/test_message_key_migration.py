"""Revision 0011 gives message ids to their senders, beside processors that write, and keeps every row."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import attrs
import pytest
from alembic import command
from asyncmy.errors import IntegrityError, MySQLError
from sqlalchemy.exc import DBAPIError

from chatflow.adapters.sql import migrate
from chatflow.ports.errors import StoreUnavailable
from chatflow.ports.messages import Message
from tests.contract.store_cases import Row, crowd, message, opened
from tests.contract.store_maria import RawMaria

BEFORE = "0010"
OLD_KEY, NEW_KEY = "uq_messages_message_id", "uq_messages_sender_message_id"
LETTERS = [
    ("one", '{"message_id":"one","user_id":41}', "41"),
    ("two", '{"message_id":"two","user_id":"\\ud800"}', "\\ud800"),
    ("three", '{"message_id":"three"}', ""),
    ("four", "not JSON", ""),
    ("five", json.dumps({"user_id": 2**300}), str(2**300)[:64]),
]


def at_the_revision_before(url: str) -> None:
    """Make a database as the version before left it."""

    def run(conn: object) -> None:
        config = migrate._config()
        config.attributes["connection"] = conn
        command.upgrade(config, BEFORE)

    migrate._on_connection(url, run)


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "chatflow.db"


@pytest.fixture
def raw_sqlite(sqlite_file: Path) -> Callable[[str], list[Row]]:
    def raw(sql: str) -> list[Row]:
        with closing(sqlite3.connect(sqlite_file)) as connection, connection:
            return connection.execute(sql).fetchall()

    return raw


@pytest.fixture
def raw_maria(maria_url: str) -> Iterator[RawMaria]:
    with RawMaria(maria_url) as raw:
        yield raw


def insert_letters(raw: Callable[[str], list[Row]]) -> None:
    for number, (message_id, original, _) in enumerate(LETTERS):
        escaped = original.replace("\\", "\\\\") if isinstance(raw, RawMaria) else original
        raw(
            "INSERT INTO dead_letter_messages (id, message_id, message_json, error_reason, retry_count, created_at, "
            f"resolved) VALUES ({number + 1}, '{message_id}', '{escaped}', 'bad', 0, "
            f"{'now(6)' if isinstance(raw, RawMaria) else 1}, 0)"
        )


def senders(raw: Callable[[str], list[Row]]) -> list[Row]:
    return raw("SELECT message_id, user_id FROM dead_letter_messages ORDER BY id")


SENDERS = [(message_id, user_id) for message_id, _, user_id in LETTERS]


async def test_sqlite_keeps_every_row_and_refuses_and_takes_what_it_should(sqlite_file, raw_sqlite) -> None:
    url = f"sqlite:///{sqlite_file}"
    at_the_revision_before(url)
    insert_letters(raw_sqlite)
    async with opened(url, raw_sqlite, summaries=True) as stack:
        stored = (await stack.store.append_batch(crowd(500))).stored
    before = raw_sqlite("SELECT * FROM messages ORDER BY room_id, seq")
    assert await asyncio.to_thread(migrate.upgrade, url) != []
    assert raw_sqlite("SELECT * FROM messages ORDER BY room_id, seq") == before
    assert senders(raw_sqlite) == SENDERS
    tables = dict(raw_sqlite("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    assert "UNIQUE" not in tables["messages"]
    assert "WITHOUT ROWID" in tables["messages"]
    async with opened(url, raw_sqlite, summaries=True) as stack:
        again = await stack.store.append_batch([row.message for row in stored])
        assert (again.stored, again.duplicates) == (stored, 500)
        (borrowed,) = (await stack.store.append_batch([attrs.evolve(stored[0].message, user_id=99)])).stored
        assert borrowed.message.user_id == 99
        assert await stack.auditor.recount(summaries=True) == (501, [])


def test_sqlite_can_go_back_and_forth(sqlite_file, raw_sqlite) -> None:
    url = f"sqlite:///{sqlite_file}"
    migrate.upgrade(url)

    def back(conn: object) -> None:
        config = migrate._config()
        config.attributes["connection"] = conn
        command.downgrade(config, BEFORE)

    migrate._on_connection(url, back)
    assert migrate.upgrade(url)[0] == "0011"
    indexes = [name for (name,) in raw_sqlite("SELECT name FROM sqlite_master WHERE type = 'index'")]
    assert NEW_KEY in indexes
    assert OLD_KEY not in indexes


def keys_of(raw: Callable[[str], list[Row]]) -> dict[str, list[object]]:
    keys: dict[str, list[object]] = {}
    for _, not_unique, name, _, column, *_ in raw("SHOW INDEX FROM messages"):
        if not not_unique:
            keys.setdefault(str(name), []).append(column)
    return keys


async def test_mariadb_migrates_while_processors_write_and_redeliver(maria_url, raw_maria) -> None:
    await asyncio.to_thread(at_the_revision_before, maria_url)
    insert_letters(raw_maria)
    async with opened(maria_url, raw_maria, summaries=True) as stack:
        await stack.store.append_batch(crowd(3_000))
        done = asyncio.Event()
        written = [await asyncio.create_task(_write_until(stack.store, asyncio.Event(), rounds=1))]
        writers = [asyncio.create_task(_write_until(stack.store, done)) for _ in range(2)]
        applied = await asyncio.to_thread(migrate.upgrade, maria_url)
        done.set()
        written += await asyncio.gather(*writers)
        assert applied[0] == "0011"
        assert keys_of(raw_maria) == {"PRIMARY": ["room_id", "seq"], NEW_KEY: ["message_id", "user_id"]}
        assert senders(raw_maria) == SENDERS
        total = 3_000 + sum(map(len, written))
        assert await stack.auditor.recount(summaries=True) == (total, [])
        shared = attrs.evolve(written[0][0], user_id=99)
        assert (await stack.store.append_batch([shared])).duplicates == 0


async def _write_until(store, done: asyncio.Event, *, rounds: int = 10_000) -> list[Message]:
    """Store batches, each with the one before again, until the migration is over and one round beyond."""
    written: list[Message] = []
    last: list[Message] = []
    for _ in range(rounds):
        is_over = done.is_set()
        batch = [message(f"w{number % 3}", number % 5 + 1) for number in range(20)]
        appended = await store.append_batch([*last, *batch])
        assert (len(appended.stored), appended.duplicates) == (len(last) + 20, len(last))
        written += batch
        last = batch
        if is_over:
            break
    return written


async def test_mariadb_finishes_a_migration_that_was_cut_short(maria_url, raw_maria) -> None:
    await asyncio.to_thread(at_the_revision_before, maria_url)
    insert_letters(raw_maria)
    raw_maria(f"ALTER TABLE messages ADD UNIQUE INDEX {NEW_KEY} (message_id, user_id)")
    raw_maria("ALTER TABLE dead_letter_messages ADD COLUMN user_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin"
              " NOT NULL DEFAULT ''")  # fmt: skip
    raw_maria("UPDATE dead_letter_messages SET user_id = '41' WHERE id = 1")
    assert (await asyncio.to_thread(migrate.upgrade, maria_url))[0] == "0011"
    assert set(keys_of(raw_maria)) == {"PRIMARY", NEW_KEY}
    assert senders(raw_maria) == SENDERS


@pytest.mark.parametrize(("code", "ways"), [(1062, 2), (1799, 2), (1846, 2), (1845, 2), (1060, 1), (1205, 1)])
def test_a_change_that_fails_beside_writers_is_made_while_they_are_held_back(monkeypatch, code, ways) -> None:
    tried: list[str] = []

    class FailsOnce:
        def execute(self, statement: str) -> None:
            tried.append(statement)
            if len(tried) == 1:
                raise DBAPIError(statement, None, MySQLError(code, "no"))

    revision = migrate._scripts().get_revision("0011").module
    monkeypatch.setattr(revision, "op", FailsOnce())
    with nullcontext() if ways == 2 else pytest.raises(DBAPIError):
        revision._alter("messages", "DROP INDEX x")
    locks = ["ALTER TABLE messages DROP INDEX x, ALGORITHM=INPLACE, LOCK=" + lock for lock in ("NONE", "SHARED")]
    assert tried == locks[:ways]


async def test_both_keys_together_refuse_a_duplicate_by_a_name_that_every_version_knows(maria_url, raw_maria) -> None:
    await asyncio.to_thread(migrate.upgrade, maria_url)
    for _ in range(2):
        async with opened(maria_url, raw_maria, summaries=False) as stack:
            first = message("a")
            (stored,) = (await stack.store.append_batch([first])).stored
            assert (await stack.store.append_batch([first])).stored == (stored,)
        row = raw_maria("SELECT * FROM messages LIMIT 1")[0]
        values = ", ".join(f"x'{v.hex()}'" if isinstance(v, bytes) else f"'{v}'" for v in ("z", 1, *row[2:]))
        with pytest.raises(IntegrityError) as refused:
            raw_maria(f"INSERT INTO messages VALUES ({values})")
        assert refused.value.args[1].endswith("message_id'")
        raw_maria(f"ALTER TABLE messages ADD UNIQUE INDEX IF NOT EXISTS {OLD_KEY} (message_id)")


async def test_a_new_processor_waits_for_the_old_key_to_go(maria_url, raw_maria) -> None:
    """It cannot start before, but neither may it lose what it meets."""
    await asyncio.to_thread(migrate.upgrade, maria_url)
    raw_maria(f"ALTER TABLE messages ADD UNIQUE INDEX {OLD_KEY} (message_id)")
    async with opened(maria_url, raw_maria, summaries=False) as stack:
        first = message("a", 7)
        borrowed = attrs.evolve(first, user_id=8)
        await stack.store.append_batch([first])
        with pytest.raises(StoreUnavailable, match=OLD_KEY):
            await stack.store.append_batch([borrowed])
        raw_maria(f"ALTER TABLE messages DROP INDEX {OLD_KEY}")
        (stored,) = (await stack.store.append_batch([borrowed])).stored
        assert (stored.message, stored.seq) == (borrowed, 2)
