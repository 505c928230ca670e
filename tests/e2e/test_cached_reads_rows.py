"""What two apis say over one Redis, beside what the database holds and what it was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import attrs
import pytest

from tests.e2e.reading import HARD_BOUND_S, Site, open_site
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.rabbit import RabbitServer
from tests.harness.redis import RedisServer

WAIT_S = 30.0
CONCURRENT = 1_000
HELD_S = 1.0
"""How long no read of the messages ends while all miss; shorter than a lease."""
USER = 7


@attrs.frozen
class Tables:
    """The database behind a site."""

    site: Site
    maria: MariaServer
    database: str

    def rows(self, statement: str) -> list[list[str]]:
        return self.maria.execute(statement, self.database)


@pytest.fixture(scope="module", params=["O12", "O1"])
async def tables(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rabbit_server: RabbitServer,
    maria_server: MariaServer,
    redis_server: RedisServer,
) -> AsyncIterator[Tables]:
    """One fleet for all tests of a profile: each works in rooms of its own."""
    for server in (rabbit_server, maria_server, redis_server):
        server.make_ready()
    redis_server.flush()
    vhost, database = rabbit_server.vhost(), maria_server.database()
    settings = {"CHATFLOW_PROFILE": request.param, "CHATFLOW_CACHE_URL": redis_server.url()}
    urls = rabbit_server.url(vhost), maria_server.url(database)
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), *urls, gateways=1, processors=1, apis=2, settings=settings)
    async with open_site(fleet) as site:
        yield Tables(site, maria_server, database)
    rabbit_server.delete_vhost(vhost)
    maria_server.drop(database)


async def write(site: Site, room: str, count: int) -> None:
    async with site.writer() as writer:
        for _ in range(count):
            await writer.write(room)


async def test_every_page_of_both_apis_is_what_the_database_holds_before_and_after_a_commit(tables: Tables) -> None:
    site = tables.site
    await write(site, "agreed", 12)
    await site.hits_come(0, "agreed")
    await site.hits_come(1, "agreed")
    for _ in range(2):
        for api in (0, 1, 0, 1):
            await match(tables, api, "agreed")
        before = site.committed.head("agreed")
        async with site.writer() as writer:
            assert await writer.write("agreed") == before + 1
        async with asyncio.timeout(HARD_BOUND_S):
            for api in (0, 1):
                while (await site.page(api, "agreed"))[2] != [before + 1]:
                    pass


async def match(tables: Tables, api: int, room: str) -> None:
    """All that can be asked about this room and the user who wrote in it."""
    http = tables.site.http[api]

    async def asked(path: str, **params: str) -> dict:
        async with http.get(path, params=params) as response:
            assert response.status == 200
            return await response.json()

    rows = tables.rows(f"SELECT seq, user_id, content FROM messages WHERE room_id = '{room}' ORDER BY seq DESC")
    page = await asked("/api/messages/room", roomId=room, limit="1000")
    assert [[str(row["seq"]), str(row["userId"]), row["message"]] for row in page["messages"]] == rows
    history = await asked("/api/messages/user", userId=str(USER), limit="1000")
    assert [[row["roomId"], str(row["seq"])] for row in history["messages"]] == history_of(tables, USER)
    rows = tables.rows(f"SELECT room_id, count(*) FROM messages WHERE user_id = {USER} GROUP BY room_id ORDER BY 1")
    rooms = await asked("/api/users/rooms", userId=str(USER), limit="1000")
    assert sorted([row["roomId"], str(row["messageCount"])] for row in rooms["rooms"]) == rows


def history_of(tables: Tables, user: int) -> list[list[str]]:
    return tables.rows(
        f"SELECT room_id, seq FROM messages WHERE user_id = {user} ORDER BY accepted_at DESC, room_id DESC, seq DESC"
    )


async def test_a_walk_through_a_user_meets_what_was_there_once_while_the_user_writes(tables: Tables) -> None:
    site, rooms = tables.site, ["walked0", "walked1", "walked2"]
    await asyncio.gather(*(write(site, room, 40) for room in rooms))
    there = history_of(tables, USER)
    async with site.busy(rooms, readers=0):
        walks = await asyncio.gather(*(walk(site, api, USER) for api in (0, 1, 0, 1)))
    for seen in walks:
        assert [row for row in seen if row in there] == there
        assert len({tuple(row) for row in seen}) == len(seen)
    assert sum(site.committed.head(room) for room in rooms) > 120


async def walk(site: Site, api: int, user: int) -> list[list[str]]:
    seen: list[list[str]] = []
    query = {"userId": str(user), "limit": "7"}
    while True:
        async with site.http[api].get("/api/messages/user", params=query) as response:
            body = await response.json()
        seen += [[row["roomId"], str(row["seq"])] for row in body["messages"]]
        if "nextCursor" not in body:
            return seen
        query["cursor"] = body["nextCursor"]


async def test_a_thousand_who_miss_one_page_before_anybody_has_read_it_cost_two_reads_at_most(tables: Tables) -> None:
    site = tables.site
    await write(site, "cold", 60)
    await site.hits_come(0, "cold")
    await site.hits_come(1, "cold")
    request = b"GET /api/messages/room?roomId=cold&limit=50 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ports = [api.port for api in site.fleet.of("api") for _ in range(CONCURRENT // 2)]
    connections = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
    async with logged(tables), held(tables, "messages"):
        for _, out in connections:
            out.write(request)
        async with asyncio.timeout(WAIT_S):
            answers = await asyncio.gather(*(source.read() for source, _ in connections))
    for _, out in connections:
        out.close()
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    (page,) = {answer[answer.index(b'"roomId"') :] for answer in answers}
    assert page.count(b'"seq":') == 50
    reads = tables.rows(
        "SELECT argument FROM mysql.general_log "
        "WHERE command_type IN ('Query', 'Execute') AND argument LIKE 'SELECT%FROM messages%'"
    )
    assert 1 <= len(reads) <= 2


@contextlib.asynccontextmanager
async def logged(tables: Tables) -> AsyncIterator[None]:
    """MariaDB writes down every statement, prepared ones without their values."""
    tables.rows("SET GLOBAL log_output = 'TABLE'; TRUNCATE mysql.general_log; SET GLOBAL general_log = 1")
    try:
        yield
    finally:
        tables.rows("SET GLOBAL general_log = 0")


@contextlib.asynccontextmanager
async def held(tables: Tables, table: str) -> AsyncIterator[None]:
    """No read of the table ends for a while, so that whoever asks meanwhile asks at the same time."""
    lock = f"LOCK TABLES {table} WRITE; DO SLEEP({HELD_S}); UNLOCK TABLES"
    holding = asyncio.create_task(asyncio.to_thread(tables.rows, lock))
    async with asyncio.timeout(WAIT_S):
        while not any("DO SLEEP" in row[-2] for row in tables.rows("SHOW PROCESSLIST")):
            assert not holding.done()
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await holding
