"""What only SQLite has: one writer thread, group commit, locks of other processes, and queries that can be stopped."""

import asyncio
import sqlite3
import threading
from collections import defaultdict
from contextlib import closing

import pytest
from sqlalchemy import Connection

from chatflow.adapters.sql import migrate
from chatflow.adapters.sql.analytics import SummaryAnalytics
from chatflow.adapters.sql.audit import SqlAuditor
from chatflow.adapters.sql.database import PoolMetrics
from chatflow.adapters.sql.opening import open_database
from chatflow.adapters.sql.reader import ROOM_PAGE, ROOM_RANGE, USER_PAGE, SqlMessageReader
from chatflow.adapters.sql.sqlite.append import _insert_of, _upsert_of
from chatflow.adapters.sql.sqlite.database import SqliteDatabase
from chatflow.adapters.sql.store import SqlMessageStore
from chatflow.adapters.sql.summaries import TABLES
from chatflow.ports.errors import QueryTimeout, RowRejected, StoreOverloaded, StoreUnavailable
from chatflow.ports.store import TimeWindow
from tests.contract.store_cases import NOW_US, message
from tests.harness.waiting import eventually

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
PATIENCE_S = 10.0


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "chatflow.db"
    migrate.upgrade(f"sqlite:///{file}")
    return str(file)


@pytest.fixture
async def database(path):
    opened = SqliteDatabase(path, readers=1, read_queue_limit=1, read_deadline_s=PATIENCE_S, busy_timeout_s=0.05)
    yield opened
    await opened.close()


@pytest.fixture
def store(database):
    return SqlMessageStore(database, lambda: NOW_US, summaries=True)


async def assert_sound(database, total: int) -> None:
    assert await SqlAuditor(database).recount(summaries=True) == (total, [])


def endless(conn: Connection) -> None:
    conn.exec_driver_sql(ENDLESS).all()


def answer(conn: Connection) -> int:
    return conn.exec_driver_sql("SELECT 42").scalar_one()


class Gate:
    """A write that says when it has begun and goes on when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self, conn: Connection) -> None:
        self.begun.set()
        assert self.opened.wait(PATIENCE_S)


# --- writing


async def test_commits_survive_a_power_cut_and_readers_cannot_write(database):
    def pragmas(conn: Connection) -> tuple[object, ...]:
        names = ("journal_mode", "synchronous", "query_only")
        return tuple(conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names)

    assert await database.write(pragmas) == ("wal", 2, 0)
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(lambda conn: conn.exec_driver_sql("DELETE FROM messages"))


async def test_a_locked_database_is_unavailable_and_comes_back_by_itself(store, database, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for attempt in (store.append_batch([message()]), store.ping(), store.add_dead_letter(message(), "bad")):
            with pytest.raises(StoreUnavailable, match="locked"):
                await attempt
        assert await SqlMessageReader(database).heads(["1"]) == {}
        other.execute("ROLLBACK")
    await store.append_batch([message()])
    await assert_sound(database, 1)


async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_done(store, database):
    await store.append_batch([message("a")])
    pages = await database.write(lambda conn: conn.exec_driver_sql("PRAGMA page_count").scalar_one())
    await database.write(lambda conn: conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}").all())
    batch = [message("a", text="x" * 4000) for _ in range(50)]
    with pytest.raises(StoreUnavailable, match="full"):
        await store.append_batch(batch)
    await assert_sound(database, 1)
    appended = await store.append_batch(batch)
    assert [each.seq for each in appended.stored] == list(range(2, 52))
    await assert_sound(database, 51)


async def test_a_transaction_that_is_ended_early_is_not_taken_for_committed(store, database):
    """What follows its end would be committed statement by statement."""

    def end(conn):
        conn.exec_driver_sql("INSERT INTO room_heads VALUES ('a', 0)")
        conn.exec_driver_sql("ROLLBACK")
        conn.exec_driver_sql("INSERT INTO room_heads VALUES ('b', 0)")

    with pytest.raises(StoreUnavailable, match="ended before its commit"):
        await database.write(end)
    await store.append_batch([message("c")])


async def test_a_broken_file_is_unavailable(tmp_path):
    (tmp_path / "chatflow.db").write_bytes(b"this is no database" * 1000)
    database = open_database(f"sqlite:///{tmp_path}/chatflow.db")
    with pytest.raises(StoreUnavailable):
        await SqlMessageStore(database, lambda: NOW_US, summaries=True).append_batch([message()])
    with pytest.raises(StoreUnavailable):
        await SqlMessageReader(database).heads(["1"])
    await database.close()


async def test_a_cancelled_append_that_runs_is_stored_whole_and_the_writer_goes_on(store, database, monkeypatch):
    gate = Gate()
    running = SqlMessageStore._append
    monkeypatch.setattr(SqlMessageStore, "_append", lambda *args: (gate(args[1]), running(*args))[1])
    batch = [message("a"), message("a"), message("b")]
    task = asyncio.create_task(store.append_batch(batch))
    await eventually(gate.begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    again = await store.append_batch(batch)
    assert again.duplicates == 3
    await assert_sound(database, 3)


async def test_pools_count_connections_and_calls_that_wait_for_one(database):
    assert await database.write(answer) == await database.read(answer) == 42
    idle = PoolMetrics(size=1, active=0, idle=1, total=1, waiting=0)
    await eventually(lambda: database.pools() == {"writer": idle, "reader": idle})
    gate = Gate()
    writes = [asyncio.create_task(database.write(gate))]
    await eventually(gate.begun.is_set)
    writes.append(asyncio.create_task(database.write(answer)))
    reads = [asyncio.create_task(database.read(fn)) for fn in (endless, answer)]
    busy = PoolMetrics(size=1, active=1, idle=0, total=1, waiting=1)
    await eventually(lambda: database.pools() == {"writer": busy, "reader": busy})
    gate.opened.set()
    reads[0].cancel()
    await asyncio.gather(*writes, *reads, return_exceptions=True)
    await eventually(lambda: database.pools() == {"writer": idle, "reader": idle})


async def test_a_cancelled_append_that_still_waits_never_runs(store, database):
    gate = Gate()
    blocker = asyncio.create_task(database.write(gate))
    await eventually(gate.begun.is_set)
    waiting = asyncio.create_task(store.append_batch([message("a")]))
    await eventually(lambda: len(database._groups._waiting) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.opened.set()
    await blocker
    await store.append_batch([message("b")])
    assert await SqlMessageReader(database).heads(["a", "b"]) == {"b": 1}


async def test_appends_that_wait_are_committed_together(store, database):
    commits: list[int] = []

    def count(driver: sqlite3.Connection) -> None:
        driver.set_trace_callback(lambda sql: commits.append(1) if sql.startswith("COMMIT") else None)

    await database.write(lambda conn: count(conn.connection.driver_connection))
    gate = Gate()
    blocker = asyncio.create_task(database.write(gate))
    await eventually(gate.begun.is_set)
    batches = [[message("a"), message(f"r{number}"), message("a")] for number in range(8)]
    tasks = [asyncio.create_task(store.append_batch(batch)) for batch in batches]
    await eventually(lambda: len(database._groups._waiting) == 8)
    commits.clear()
    gate.opened.set()
    answers = await asyncio.gather(*tasks)
    await blocker
    assert len(commits) == 2
    assert [[each.message for each in answer.stored] for answer in answers] == batches
    assert [answer.stored[0].seq for answer in answers] == list(range(1, 17, 2))
    await assert_sound(database, 24)


async def test_a_group_with_a_failing_member_gives_everyone_their_own_outcome(store, database):
    gate = Gate()
    blocker = asyncio.create_task(database.write(gate))
    await eventually(gate.begun.is_set)
    old = message("a")
    calls = [
        store.append_batch([old]),
        store.append_batch([message("a", text="x" * 5000)]),
        store.append_batch([message("b"), old]),
        store.add_dead_letter(message("c"), "bad"),
        database.write(lambda conn: 1 // 0),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    await eventually(lambda: len(database._groups._waiting) == 5)
    gate.opened.set()
    await blocker
    first, poison, third, dead_letter, bug = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first.duplicates, third.duplicates, dead_letter) == (0, 1, None)
    assert isinstance(poison, RowRejected)
    assert isinstance(bug, ZeroDivisionError)
    await assert_sound(database, 2)


async def test_a_closed_database_is_unavailable(store, database):
    await store.append_batch([message()])
    await database.close()
    await database.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.append_batch([message()])
    with pytest.raises(StoreUnavailable, match="closed"):
        await SqlMessageReader(database).heads(["1"])


async def test_closing_finishes_what_was_asked_before(store, database, path):
    task = asyncio.create_task(store.append_batch([message("a")]))
    await eventually(lambda: bool(database._groups._waiting) or task.done())
    await database.close()
    assert (await task).stored[0].seq == 1
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM messages").fetchone() == (1,)


# --- reading


async def test_a_read_past_its_deadline_is_stopped_and_frees_its_thread(path):
    database = SqliteDatabase(path, readers=1, read_deadline_s=0.05)
    with pytest.raises(QueryTimeout):
        await database.read(endless)
    assert await database.snapshot(answer) == 42
    await database.close()


async def test_a_read_of_many_statements_is_stopped_too(path):
    def statement_after_statement(conn: Connection) -> None:
        while True:
            conn.exec_driver_sql("SELECT count(*) FROM messages").all()

    database = SqliteDatabase(path, readers=1, read_deadline_s=0.05)
    with pytest.raises(QueryTimeout):
        await database.read(statement_after_statement)
    assert await database.snapshot(answer) == 42
    await database.close()


async def test_a_cancelled_read_is_stopped(database):
    task = asyncio.create_task(database.read(endless))
    await eventually(lambda: database._reading == 1)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.read(answer) == 42


async def test_reads_beyond_the_waiting_line_are_refused(database):
    running = asyncio.create_task(database.read(endless))
    waiting = asyncio.create_task(database.read(answer))
    await eventually(lambda: database._reading == 2)
    with pytest.raises(StoreOverloaded):
        await database.read(answer)
    running.cancel()
    assert await waiting == 42
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_read_that_waits_past_its_deadline_is_not_run(path):
    database = SqliteDatabase(path, readers=1, read_deadline_s=0.05)
    ran: list[int] = []
    busy = asyncio.create_task(database.snapshot(endless))
    await eventually(lambda: database._reading == 1)
    with pytest.raises(QueryTimeout):
        await database.read(lambda conn: ran.append(1))
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy
    assert await database.read(answer) == 42
    assert ran == []
    await database.close()


async def test_a_snapshot_does_not_see_what_is_committed_meanwhile(database, store):
    await store.append_batch([message("a")])
    gate = Gate()

    def count_twice(conn: Connection) -> tuple[int, int]:
        first = conn.exec_driver_sql("SELECT count(*) FROM messages").scalar_one()
        gate(conn)
        return first, conn.exec_driver_sql("SELECT count(*) FROM messages").scalar_one()

    counting = asyncio.create_task(database.snapshot(count_twice))
    await eventually(gate.begun.is_set)
    await store.append_batch([message("a")])
    gate.opened.set()
    assert await counting == (1, 1)


# --- plans


def plan(path: str, sql: str, variables: object) -> str:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", variables).fetchall()
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ROOM_PAGE, "PRIMARY KEY (room_id=? AND seq<?)"),
        (ROOM_RANGE, "PRIMARY KEY (room_id=? AND seq>?)"),
        (USER_PAGE, "INDEX ix_messages_user_accepted (user_id=? AND accepted_at>? AND accepted_at<?)"),
    ],
    ids=["room page", "room range", "user page"],
)
def test_a_page_is_a_range_of_one_index_without_a_sort(path, query, index):
    steps = plan(path, query._text, defaultdict(int))
    assert index in steps
    assert "TEMP B-TREE" not in steps


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_summary_reads_only_the_rows_above_the_heads(path, table):
    steps = plan(path, _upsert_of(table), (None,))
    assert "SEARCH messages USING PRIMARY KEY (room_id=? AND seq>?)" in steps
    assert "SCAN messages" not in steps


def test_the_longest_insert_keeps_under_the_default_variable_limit():
    assert _insert_of(2048).count("?") <= 32_766


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
async def test_a_url_may_name_the_driver_that_earlier_versions_asked_for(tmp_path, scheme):
    url = f"{scheme}:///{tmp_path}/chatflow.db"
    await asyncio.to_thread(migrate.upgrade, url)
    database = open_database(url)
    await migrate.check_schema(database)
    await database.close()


async def test_urls_that_name_no_file_are_refused():
    for url in ("sqlite://", "sqlite+aiosqlite://", "sqlite:///:memory:", "postgresql://host/db", "no url"):
        with pytest.raises(ValueError, match="database URL"):
            open_database(url)


async def test_active_users_of_an_open_window_come_from_the_summary(database, store):
    await store.append_batch([message("a", user, at=NOW_US + user) for user in range(1, 9)])
    await database.write(lambda conn: conn.exec_driver_sql("DELETE FROM user_message_summary WHERE user_id = 8"))
    assert await SummaryAnalytics(database).active_users(TimeWindow(start_us=NOW_US + 3)) == 5
