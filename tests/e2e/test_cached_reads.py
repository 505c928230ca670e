"""Reads through L1 and Redis over two api processes: fresh, honest, cheap for the database, and well without Redis."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import asyncmy
import pytest
from sqlalchemy.engine import make_url

from tests.e2e.reading import HARD_BOUND_S, Reading, Site, open_site
from tests.harness.fleet import Fleet
from tests.harness.maria import MariaServer
from tests.harness.proxy import FaultProxy, fault_proxies
from tests.harness.rabbit import RabbitServer
from tests.harness.redis import RedisServer
from tests.harness.waiting import eventually

PAIRS = 300
"""Of ten thousand, none was behind."""
UNCACHED_READS = 30
COMMITS = 150


@pytest.fixture(scope="module")
async def fleet_and_proxy(
    tmp_path_factory: pytest.TempPathFactory,
    rabbit_server: RabbitServer,
    maria_server: MariaServer,
    redis_server: RedisServer,
) -> AsyncIterator[tuple[Site, FaultProxy]]:
    """One fleet for all tests, each in rooms of its own, and the proxy between it and its Redis."""
    for server in (rabbit_server, maria_server, redis_server):
        server.make_ready()
    vhost, database = rabbit_server.vhost(), maria_server.database()
    urls = rabbit_server.url(vhost), maria_server.url(database)
    with fault_proxies() as in_front_of:
        proxy = in_front_of(redis_server.url())
        cache_url = proxy.url(redis_server.url())
        settings = {"CHATFLOW_CACHE_URL": cache_url, "CHATFLOW_UNCACHED_READS": str(UNCACHED_READS)}
        fleet = Fleet(tmp_path_factory.mktemp("fleet"), *urls, gateways=1, processors=1, apis=2, settings=settings)
        async with open_site(fleet) as site:
            yield site, proxy
    rabbit_server.delete_vhost(vhost)
    maria_server.drop(database)


@pytest.fixture
def site(fleet_and_proxy: tuple[Site, FaultProxy], redis_server: RedisServer) -> Site:
    redis_server.make_ready()
    return fleet_and_proxy[0]


@pytest.fixture
def redis_proxy(fleet_and_proxy: tuple[Site, FaultProxy]) -> FaultProxy:
    return fleet_and_proxy[1]


def rooms_of(test: str) -> list[str]:
    return [f"{test}-{number}" for number in range(4)]


async def test_a_page_comes_from_the_nearest_tier_and_a_commit_ends_it_in_all_of_them(site: Site) -> None:
    async with site.writer() as writer:
        for _ in range(3):
            await writer.write("lobby")
        await site.hits_come(0, "lobby")
        for limit in range(9, 40):  # a machine that stalls makes Redis late, and then the database answers
            tiers = [(await site.page(api, "lobby", limit=limit))[1] for api in (0, 0, 1, 1)]
            if tiers == ["miss", "l1", "l2", "l1"]:
                break
        else:
            pytest.fail(f"never from the nearest tier: {tiers}")
        await writer.write("lobby")
        async with asyncio.timeout(HARD_BOUND_S):
            while {(await site.page(api, "lobby", limit=9))[2][0] for api in (0, 1)} != {4}:
                pass
        assert (await site.page(0, "lobby", limit=9))[1] == "l1"
    async with asyncio.timeout(10):
        while (metrics := await site.metrics(1))["totals"][
            "messagesInserted"
        ] != 4:  # the processor tells once a second
            await asyncio.sleep(0.1)
    assert metrics["redisCache"]["available"] is True


async def test_no_page_is_older_than_its_bound_while_rooms_are_written(site: Site) -> None:
    rooms = rooms_of("written")

    def written() -> int:
        return sum(site.committed.head(room) for room in rooms)

    async with site.busy(rooms) as reading:
        started = time.monotonic()
        await eventually(lambda: written() > COMMITS and reading.tiers["l1"] > COMMITS, "commits and hits")
        seconds = time.monotonic() - started
    print(f"{written() / seconds:.0f} commits/s: {reading}")
    assert not reading.unwelcome
    assert max(reading.staleness_s) < HARD_BOUND_S, str(reading)


async def test_who_names_the_message_it_has_seen_is_never_answered_from_before_it(site: Site) -> None:
    rooms = rooms_of("paired")
    async with site.writer() as writer:
        for pair in range(PAIRS):
            room = rooms[pair % len(rooms)]
            seq = await writer.write(room)
            status, _, seqs = await site.page(pair % 2, room, minSeq=seq)
            assert (status, seqs) == (200, [seq])


async def test_an_api_that_starts_finds_what_the_others_have_kept(site: Site) -> None:
    async with site.writer() as writer:
        for _ in range(2):
            await writer.write("kept")
    await site.hits_come(0, "kept")
    async with site.http[0].get("/api/messages/room", params={"roomId": "kept", "limit": "1"}) as response:
        older = {"cursor": (await response.json())["nextCursor"]}  # a page that lives for minutes
    assert (await site.page(0, "kept", **older))[1:] == ("miss", [1])
    restarted = site.fleet.of("api")[1]
    restarted.kill()
    restarted.start()
    await restarted.ready()
    assert (await site.page(1, "kept", **older))[1:] == ("l2", [1])


async def killed(redis: RedisServer, _: FaultProxy, reading: Reading) -> None:
    redis.kill()
    await reading.goes_on(answers=200, misses=20)
    await asyncio.to_thread(redis.restart)


async def stopped(redis: RedisServer, _: FaultProxy, reading: Reading) -> None:
    redis.pause()
    await reading.goes_on(answers=200, misses=20)
    redis.resume()


async def restarted_empty(redis: RedisServer, _: FaultProxy, __: Reading) -> None:
    redis.kill()
    await asyncio.to_thread(redis.restart)


async def slow(_: RedisServer, proxy: FaultProxy, reading: Reading) -> None:
    proxy.delay(2.0)
    await reading.goes_on(answers=200, misses=20)
    proxy.heal()


async def cut(_: RedisServer, proxy: FaultProxy, reading: Reading) -> None:
    proxy.cut()
    await reading.goes_on(answers=100)


@pytest.mark.parametrize("fault", [killed, stopped, restarted_empty, slow, cut], ids=lambda fault: fault.__name__)
async def test_reads_go_on_without_redis_and_nothing_stale_is_served_when_it_is_back(
    site: Site, redis_server: RedisServer, redis_proxy: FaultProxy, fault
) -> None:
    rooms = rooms_of(fault.__name__)
    async with site.busy(rooms) as reading:
        await reading.goes_on(answers=50)
        await fault(redis_server, redis_proxy, reading)
        await reading.goes_on(answers=200)
    print(f"{fault.__name__}: {reading}")
    assert not reading.unwelcome
    assert reading.statuses[200] > 0
    assert max(reading.staleness_s) < HARD_BOUND_S, str(reading)
    for api in (0, 1):
        await site.hits_come(api, rooms[0])


async def test_without_redis_one_read_more_than_the_cap_is_refused_at_once_and_the_others_are_answered(
    site: Site, redis_server: RedisServer
) -> None:
    async with site.writer() as writer:
        await writer.write("capped")
    redis_server.kill()
    await cache_is_down(site, 0)

    async def ask(limit: int) -> tuple[int, str | None, dict]:
        query = {"roomId": "capped", "limit": str(limit)}
        async with site.http[0].get("/api/messages/room", params=query) as response:
            return response.status, response.headers.get("Retry-After"), await response.json()

    async with held(site.fleet.database_url, "messages"):
        asking = [asyncio.create_task(ask(limit)) for limit in range(1, UNCACHED_READS + 2)]
        (refused,), waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        status, retry_after, body = refused.result()
        assert (status, body["error"]) == (503, "backpressure")
        assert int(retry_after) >= 1
    answers = await asyncio.gather(*waiting)
    assert [(status, len(body["messages"])) for status, _, body in answers] == [(200, 1)] * UNCACHED_READS
    await asyncio.to_thread(redis_server.restart)
    for api in (0, 1):
        await site.hits_come(api, "capped")
    await answers_are_shared(site)


async def cache_is_down(site: Site, api: int) -> None:
    """Wait until this api has noticed."""
    async with asyncio.timeout(20):
        while True:
            async with site.http[api].get("/health") as response:
                if (await response.json())["dependencies"]["cache"] == "down":
                    return
            await asyncio.sleep(0.02)


async def answers_are_shared(site: Site) -> None:
    """Wait until one api gets from Redis what the other has read."""
    tiers, users = [], itertools.count(1_000)
    async with asyncio.timeout(20):
        while tiers != ["miss", "l2"]:
            query = {"userId": str(next(users))}
            tiers = []
            for http in site.http:
                async with http.get("/api/users/rooms", params=query) as response:
                    tiers.append(response.headers["X-Cache"])
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def held(database_url: str, table: str) -> AsyncIterator[None]:
    """Meanwhile no read of the table ends."""
    url = make_url(database_url)
    names = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "db": url.database}
    connection = await asyncmy.connect(**names)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(f"LOCK TABLES {table} WRITE")
        yield
    finally:
        await connection.ensure_closed()  # which unlocks it


async def test_a_walk_by_cursor_meets_every_message_once_while_the_room_is_written(site: Site) -> None:
    writers = [asyncio.create_task(site.write_for_ever("walked"))]
    async with asyncio.timeout(30):
        while site.committed.head("walked") < 150:
            await asyncio.sleep(0.05)
    start, seen, cursor = site.committed.head("walked"), [], {}
    while True:
        query = {"roomId": "walked", "limit": "20", **cursor}
        async with site.http[len(seen) // 20 % 2].get("/api/messages/room", params=query) as response:
            body = await response.json()
        seen += [row["seq"] for row in body["messages"]]
        if "nextCursor" not in body:
            break
        cursor = {"cursor": body["nextCursor"]}
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    assert seen == list(range(seen[0], 0, -1))
    assert seen[0] >= start
