"""The index that each query takes: statements are caught on their way to the database, and explained there."""

import asyncio
from contextlib import contextmanager
from typing import NamedTuple

import attrs
import pytest
from sqlalchemy import event, make_url

from chatflow.adapters.sql import migrate, reader
from chatflow.adapters.sql.analytics import ComputedAnalytics, SummaryAnalytics
from chatflow.adapters.sql.mysql.append import NEW_PAIRS, locked_heads
from chatflow.adapters.sql.reader import SqlMessageReader
from chatflow.ports.store import TimeWindow, UserCursor
from tests.contract.store_cases import MINUTE_US, NOW_US, message, opened
from tests.contract.store_maria import maria_schemas

__all__ = ["maria_schemas"]

ROWS, ROOMS, USERS = 20_000, 20, 1_000
STEP_US = MINUTE_US // 10
PRIMARY, BY_USER, BY_TIME, BY_KEY = (
    "PRIMARY",
    "ix_messages_user_accepted",
    "ix_messages_accepted_user",
    "uq_messages_sender_message_id",
)
TABLES = "messages, room_heads, user_message_summary, room_message_summary, user_room_summary"


class Access(NamedTuple):
    """One line of MariaDB's ``EXPLAIN``."""

    table: str | None
    how: str | None
    key: str | None
    rows: int
    extra: str


@attrs.frozen
class Asking:
    """The code whose statements are looked at."""

    stack: object

    @property
    def reader(self):
        return SqlMessageReader(self.stack.database)

    @property
    def computed(self):
        return ComputedAnalytics(self.stack.database)

    @property
    def summed(self):
        return SummaryAnalytics(self.stack.database)

    async def plans(self, ask):
        """What the database says of each statement that ``ask`` sends."""
        with caught(engine_of(self.stack.database)) as statements:
            assert await ask(self) is not None
        asked = [each for each in statements if not each[0].startswith("EXPLAIN")]
        return [await self.stack.database.read(explained, *each) for each in asked]


def engine_of(database):
    return database._readers.engine.sync_engine if database.dialect == "mysql" else database._read_engine


@contextmanager
def caught(engine):
    statements = []

    def catch(_conn, _cursor, statement, parameters, _context, _many):
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", catch)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", catch)


def explained(conn, statement, parameters):
    """The accesses on MariaDB, the steps as text on SQLite."""
    if conn.dialect.name == "sqlite":
        return [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # asyncmy prepares what has parameters, as it does for the query itself
    rows = conn.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {statement}", parameters).mappings()
    return [Access(row["table"], row["type"], row["key"], int(row["rows"] or 0), row["Extra"]) for row in rows]


def fill(url):
    async def run():
        async with opened(url, raw=None, summaries=True) as stack:
            for start in range(0, ROWS, 2_000):
                numbers = range(start, start + 2_000)
                await stack.store.append_batch(
                    [message(f"r{n % ROOMS}", n * 7 % USERS + 1, at=NOW_US + n * STEP_US) for n in numbers]
                )

    asyncio.run(run())


@pytest.fixture(scope="module")
def filled_maria_url(maria_server, maria_schemas):
    url = maria_schemas.fresh()
    fill(url)
    database = str(make_url(url).database)
    maria_server.execute(f"ANALYZE TABLE {TABLES}", database)
    yield url
    maria_server.make_ready()
    maria_server.drop(database)


@pytest.fixture
async def maria(filled_maria_url, maria_server):
    maria_server.make_ready()
    async with opened(filled_maria_url, raw=None, summaries=True) as stack:
        yield Asking(stack)


@pytest.fixture(scope="module")
def filled_sqlite_url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('plans')}/chatflow.db"
    migrate.upgrade(url)
    fill(url)
    return url


@pytest.fixture
async def sqlite(filled_sqlite_url):
    async with opened(filled_sqlite_url, raw=None, summaries=True) as stack:
        yield Asking(stack)


END_US = NOW_US + ROWS * STEP_US
HOUR = TimeWindow(start_us=END_US - 120 * MINUTE_US, end_us=END_US - 60 * MINUTE_US)
LATEST = TimeWindow(start_us=END_US - 60 * MINUTE_US)
PLACE = UserCursor(END_US - 60 * MINUTE_US, "r3", 900)
KEYS = [("01938000-0000-7000-8000-000000000000", 7), ("01938000-0000-7000-8000-000000000001", 8)]
PAGES = {
    "room page": (lambda my: my.reader.room_page("r3", limit=100), PRIMARY, ROWS // ROOMS),
    "older room page": (lambda my: my.reader.room_page("r3", limit=100, before_seq=500), PRIMARY, 500),
    "room range": (lambda my: my.reader.room_range("r3", after_seq=900, limit=1000), PRIMARY, 100),
    "user page": (lambda my: my.reader.user_page(7, limit=100), BY_USER, ROWS // USERS),
    "older user page": (lambda my: my.reader.user_page(7, limit=100, before=PLACE), BY_USER, ROWS // USERS),
    "user page in an hour": (lambda my: my.reader.user_page(7, limit=100, window=HOUR), BY_USER, 1),
    "messages by key": (lambda my: my.reader.locate(KEYS), BY_KEY, 2),
    "rooms of a user": (lambda my: my.computed.user_rooms(7, limit=101), BY_USER, ROWS // USERS),
}
"""What to ask, the one index of ``messages`` that answers it, and about how many of its rows that takes."""

SUMMED = {
    "rooms of a user": (lambda my: my.summed.user_rooms(7, limit=101), "user_room_summary", PRIMARY),
    "heads": (lambda my: my.reader.heads(["r1", "r2"]), "room_heads", PRIMARY),
    "top users": (lambda my: my.summed.top_users(10), "user_message_summary", None),
    "top rooms": (lambda my: my.summed.top_rooms(10), "room_message_summary", None),
    "total": (lambda my: my.summed.total_messages(), "room_message_summary", None),
}
"""What to ask, the one small table that answers it, and the index, or ``None`` for all of it."""

WHOLE = {
    "top users": lambda my: my.computed.top_users(10),
    "patterns": lambda my: my.computed.patterns(),
    "total": lambda my: my.computed.total_messages(),
}
"""What counts everything: over one index that holds all it needs, not over the rows."""


@pytest.mark.parametrize(("ask", "index", "rows"), PAGES.values(), ids=PAGES)
async def test_mariadb_reads_one_range_of_one_index_of_the_messages(maria, ask, index, rows):
    (((table, how, key, estimate, extra),),) = await maria.plans(ask)
    assert (table, key) == ("messages", index)
    assert how in {"range", "ref"}
    assert estimate <= 1.5 * rows + 1
    assert "filesort" not in extra or ask is PAGES["rooms of a user"][0]


@pytest.mark.parametrize(("ask", "index", "_rows"), PAGES.values(), ids=PAGES)
async def test_sqlite_reads_one_range_of_one_index_of_the_messages(sqlite, ask, index, _rows):
    ((*steps,),) = await sqlite.plans(ask)
    (step,) = [each for each in steps if " messages" in each]
    assert step.startswith("SEARCH messages")
    assert {PRIMARY: "PRIMARY KEY"}.get(index, index) in step
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps or ask is PAGES["rooms of a user"][0]


async def test_mariadb_finds_a_room_page_of_a_narrow_window_by_time(maria):
    (plan,) = await maria.plans(lambda my: my.reader.room_page("r3", limit=100, window=HOUR))
    found, rows = plan[-1], plan[1]
    assert (found.table, found.how, found.key) == ("messages", "range", BY_TIME)
    assert found.rows <= 1_000
    assert "Using index" in found.extra
    assert (rows.table, rows.how, rows.key) == ("messages", "eq_ref", PRIMARY)


@pytest.mark.parametrize("window", [LATEST, TimeWindow(end_us=HOUR.end_us)], ids=["latest", "wide"])
async def test_mariadb_walks_a_room_to_a_window_nearby_and_finds_the_same_page(maria, monkeypatch, window):
    def ask(my):
        return my.reader.room_page("r3", limit=15, before_seq=990, window=window)

    by_time = await ask(maria)
    monkeypatch.setattr(reader, "FEW_ROWS", 100)
    ((walked,),) = await maria.plans(ask)
    assert (walked.table, walked.how, walked.key) == ("messages", "range", PRIMARY)
    assert len(by_time) == 15
    assert await ask(maria) == by_time


async def test_mariadb_finds_a_distant_window_by_time_however_wide(maria, monkeypatch):
    monkeypatch.setattr(reader, "FEW_ROWS", 100)
    distant = TimeWindow(end_us=NOW_US + 60 * MINUTE_US)
    (plan,) = await maria.plans(lambda my: my.reader.room_page("r3", limit=20, window=distant))
    assert plan[-1].key == BY_TIME


async def test_mariadb_walks_what_little_is_left_of_a_room(maria, monkeypatch):
    monkeypatch.setattr(reader, "FEW_ROWS", 100)
    ((walked,),) = await maria.plans(lambda my: my.reader.room_page("r3", limit=20, before_seq=50, window=HOUR))
    assert walked.key == PRIMARY


async def test_sqlite_walks_a_room_to_its_window(sqlite):
    ((*steps,),) = await sqlite.plans(lambda my: my.reader.room_page("r3", limit=100, window=HOUR))
    assert "SEARCH messages USING PRIMARY KEY (room_id=? AND seq<?)" in steps


@pytest.mark.parametrize(("ask", "table", "key"), SUMMED.values(), ids=SUMMED)
async def test_mariadb_reads_sums_from_one_small_table(maria, ask, table, key):
    ((access,),) = await maria.plans(ask)
    assert (access.table, access.key) == (table, key)


@pytest.mark.parametrize("ask", WHOLE.values(), ids=WHOLE)
async def test_mariadb_counts_everything_over_a_covering_index(maria, ask):
    accesses = [each for (plan,) in [await maria.plans(ask)] for each in plan]
    (counted,) = [each for each in accesses if each.table == "messages"]
    assert counted.key not in {None, PRIMARY}
    assert "Using index" in counted.extra
    others = [each for each in accesses if each.table == "theirs"]
    assert all((each.how, each.key) == ("ref", BY_USER) for each in others)


async def test_mariadb_counts_rooms_in_the_order_of_the_clustered_key(maria):
    ((access,),) = await maria.plans(lambda my: my.computed.top_rooms(10))
    assert (access.table, access.how, access.key) == ("messages", "index", PRIMARY)


async def test_mariadb_counts_active_users_of_an_hour_by_time(maria):
    ((_, counted),) = await maria.plans(lambda my: my.computed.active_users(HOUR))
    assert (counted.table, counted.how, counted.key) == ("messages", "range", BY_TIME)
    assert counted.rows <= 1_000
    assert "Using index" in counted.extra


@pytest.mark.parametrize("window", [TimeWindow(), TimeWindow(end_us=HOUR.end_us)], ids=["ever", "wide"])
async def test_mariadb_counts_active_users_of_a_wide_window_by_leaping_from_user_to_user(maria, window):
    ((_, counted),) = await maria.plans(lambda my: my.computed.active_users(window))
    assert (counted.table, counted.how, counted.key) == ("messages", "range", BY_USER)
    assert counted.rows <= 3 * USERS
    assert "Using index for group-by" in counted.extra


async def test_sqlite_counts_active_users_by_time(sqlite):
    (steps,) = await sqlite.plans(lambda my: my.computed.active_users(HOUR))
    assert f"SEARCH messages USING COVERING INDEX {BY_TIME} (accepted_at>? AND accepted_at<?)" in steps


@pytest.mark.parametrize("window", [HOUR, LATEST], ids=["past", "latest"])
async def test_mariadb_sums_active_users_after_one_look_at_the_newest_time(maria, window):
    (plan,) = await maria.plans(lambda my: my.summed.active_users(window))
    counted = {each.table: each for each in plan}
    assert set(counted) == {None, "<derived5>", "messages", "user_message_summary"}
    assert (counted["messages"].how, counted["messages"].key) == ("range", BY_TIME)
    assert [each.extra for each in plan if "optimized away" in each.extra] == ["Select tables optimized away"]


async def test_mariadb_leaps_from_minute_to_minute_by_time(maria):
    newest, minutes, *rest = [each for (each,) in await maria.plans(lambda my: my.computed.throughput(60))]
    assert "optimized away" in newest.extra
    assert (minutes.how, minutes.key) == ("range", BY_TIME)
    assert minutes.rows < 1_000
    assert rest == []


async def test_sqlite_walks_from_minute_to_minute_by_time(sqlite):
    (steps,) = await sqlite.plans(lambda my: my.computed.throughput(60))
    read = [each for each in steps if " messages" in each]
    assert len(read) == 3
    assert all(each.startswith(f"SEARCH messages USING COVERING INDEX {BY_TIME}") for each in read)


@pytest.mark.parametrize("rooms", [1, 2, 16])
async def test_mariadb_locks_heads_through_the_primary_key_alone(maria, rooms):
    asked = [f"r{number}" for number in range(rooms)]
    (access,) = await maria.stack.database.write(explained, locked_heads(asked), ())
    assert (access.how, access.key) in {("const", PRIMARY), ("range", PRIMARY)}
    assert access.rows <= rooms


async def test_mariadb_looks_up_new_pairs_one_by_one(maria):
    plan = await maria.stack.database.read(explained, NEW_PAIRS, ('[[1, "r1"], [2, "r2"]]',))
    assert ("known", "eq_ref", PRIMARY, 1) in [each[:4] for each in plan]
