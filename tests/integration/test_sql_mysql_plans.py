"""The index that MariaDB takes for each core query, on tables large enough for the choice to matter."""

import json

import pytest
from sqlalchemy import make_url

from chatflow.adapters.sql import analytics, reader
from chatflow.adapters.sql.append_mysql import NEW_PAIRS, locked_heads
from chatflow.adapters.sql.packed import Query
from chatflow.adapters.sql.schema import MAX_SEQ, MAX_TIME_US
from tests.contract.store_cases import MINUTE_US, NOW_US, message
from tests.contract.store_maria import fresh_url, maria_schemas, raw_maria
from tests.integration.mysql_cases import process

__all__ = ["fresh_url", "maria_schemas", "raw_maria"]
pytestmark = pytest.mark.xdist_group("servers")

ROWS, ROOMS, USERS = 20_000, 20, 1_000


@pytest.fixture
async def filled(fresh_url, maria_server):
    async with process(fresh_url) as mine:
        for start in range(0, ROWS, 2_000):
            numbers = range(start, start + 2_000)
            await mine.store.append_batch(
                [message(f"r{n % ROOMS}", n * 7 % USERS + 1, at=NOW_US + n * MINUTE_US // 10) for n in numbers]
            )
        maria_server.execute(
            "ANALYZE TABLE messages, room_heads, user_message_summary, room_message_summary, user_room_summary",
            str(make_url(fresh_url).database),
        )
        yield mine


def tables_of(plan: object) -> list[dict]:
    """Every table access in a plan, outermost first."""
    if isinstance(plan, list):
        return [found for each in plan for found in tables_of(each)]
    if not isinstance(plan, dict):
        return []
    mine = [plan["table"]] if isinstance(plan.get("table"), dict) else []
    return mine + [found for each in plan.values() for found in tables_of(each)]


def explained(conn, statement, params):
    text, values = statement, params
    if not isinstance(statement, str):
        statement = statement.statement if isinstance(statement, Query) else statement
        compiled = statement.compile(dialect=conn.dialect, compile_kwargs={"render_postcompile": True})
        processors = compiled._bind_processors
        named = compiled.construct_params(params)
        values = tuple(processors.get(name, lambda v: v)(named[name]) for name in compiled.positiontup)
        text = str(compiled)
    # asyncmy prepares what has parameters, as it does for the query itself
    plan = json.loads(conn.exec_driver_sql(f"EXPLAIN FORMAT=JSON {text}", values).scalar_one())
    return [(t["table_name"], t.get("access_type"), t.get("key"), t.get("rows", 0)) for t in tables_of(plan)]


EVER = {"start": 0, "end": MAX_TIME_US}
HOUR = {"start": NOW_US + ROWS // 20 * MINUTE_US, "end": NOW_US + (ROWS // 20 + 60) * MINUTE_US}
USER_PAGE = {"user": 7, **EVER, "at": MAX_TIME_US, "room": "~", "seq": 0, "limit": 100}
RANGES = {
    "room page": (reader.ROOM_PAGE, {"room": "r3", "before": MAX_SEQ, **EVER, "limit": 1000}, "PRIMARY", ROWS // ROOMS),
    "room range": (reader.ROOM_RANGE, {"room": "r3", "after": 900, "limit": 1000}, "PRIMARY", ROWS // ROOMS),
    "user page": (reader.USER_PAGE, USER_PAGE, "ix_messages_user_accepted", 100),
    "active users": (analytics.ACTIVE_USERS, HOUR, "ix_messages_accepted_user", 1_000),
    "messages per minute": (analytics.PER_MINUTE, HOUR, "ix_messages_accepted_user", 1_000),
    "rooms of a user": (analytics.USER_ROOMS, {"user": 7}, "ix_messages_user_accepted", 100),
    "rooms of a user, summed": (analytics.USER_ROOMS_SUMMED, {"user": 7}, "PRIMARY", 100),
}


@pytest.mark.parametrize(("query", "params", "key", "most"), RANGES.values(), ids=RANGES)
async def test_each_core_query_reads_one_range_of_its_index(filled, query, params, key, most):
    plan = await filled.database.read(explained, query, params)
    ((_, access, used, rows),) = plan
    assert used == key
    assert access in {"range", "ref"}
    assert rows <= 1.5 * most


async def test_the_newest_time_is_read_off_the_end_of_an_index(filled):
    def plan(conn):
        return conn.exec_driver_sql(
            "EXPLAIN SELECT MAX(accepted_at) FROM messages WHERE accepted_at < '2100-01-01'"
        ).all()

    assert "optimized away" in str(await filled.database.read(plan))


@pytest.mark.parametrize(
    "query",
    [analytics.TOP_USERS_SUMMED, analytics.TOP_ROOMS_SUMMED, analytics.TOTAL_SUMMED],
    ids=["users", "rooms", "total"],
)
async def test_sums_are_read_from_summary_tables_alone(filled, query):
    plan = await filled.database.read(explained, query, {"limit": 10})
    assert all(table.endswith("_summary") for table, *_ in plan)


@pytest.mark.parametrize("rooms", [1, 2, 16])
async def test_heads_are_locked_through_the_primary_key_alone(filled, rooms):
    asked = tuple(f"r{number}" for number in range(rooms))
    ((_, access, key, rows),) = await filled.database.write(explained, locked_heads(rooms), asked)
    assert (access, key) in {("const", "PRIMARY"), ("range", "PRIMARY")}
    assert rows <= rooms


async def test_new_pairs_are_looked_up_one_by_one(filled):
    plan = await filled.database.read(explained, NEW_PAIRS, ('[[1, "r1"], [2, "r2"]]',))
    assert ("known", "eq_ref", "PRIMARY", 1) in plan
