"""A commit that nobody can be told of any more: its processor died owing the invalidation."""

import asyncio
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from chatflow.domain.reading.cache_policy import RULES, Family
from tests.e2e.reading import Reading, Site, open_site
from tests.harness.fleet import Fleet
from tests.harness.proxy import FaultProxy
from tests.harness.rabbit import RabbitServer

LIFE_S = RULES[Family.ROOM_NEWEST].shared_ttl_s
LONGER_S = 3_600
"""What is in Redis lives so much longer here: only an invalidation ends it."""


@pytest.fixture
def processor_proxy(redis_url: str, fault_proxy: type[FaultProxy]) -> FaultProxy:
    """Between the processor and Redis."""
    return fault_proxy(redis_url)


@pytest.fixture
async def site(
    tmp_path: Path, vhost_url: str, maria_url: str, redis_url: str, processor_proxy: FaultProxy
) -> AsyncIterator[Site]:
    settings = {"CHATFLOW_CACHE_URL": redis_url}
    fleet = Fleet(tmp_path, vhost_url, maria_url, gateways=1, processors=1, apis=2, settings=settings)
    (processor,) = fleet.of("processor")
    processor.settings = processor.settings | {"CHATFLOW_CACHE_URL": processor_proxy.url(redis_url)}
    async with open_site(fleet) as opened:
        yield opened


@pytest.fixture
def die_owing(
    site: Site, processor_proxy: FaultProxy, redis_url: str, rabbit_server: RabbitServer, vhost_url: str
) -> "DieOwing":
    return DieOwing(site, processor_proxy, redis_url, rabbit_server, vhost_url)


class DieOwing:
    """The processor commits what it cannot tell Redis of, has it acked by the broker, and dies."""

    def __init__(self, site: Site, proxy: FaultProxy, redis_url: str, rabbit: RabbitServer, vhost_url: str) -> None:
        self.site, self.proxy, self.redis_url, self.rabbit, self.vhost_url = site, proxy, redis_url, rabbit, vhost_url

    async def __call__(self) -> None:
        site = self.site
        async with site.writer() as writer:
            await writer.write("lobby")
            for api in (0, 1):
                await site.hits_come(api, "lobby")
            live_longer(self.redis_url)
            self.proxy.half_open()
            await writer.write("lobby")
        await acked(self.rabbit, self.vhost_url)  # a delivery that comes again would be invalidated again
        site.fleet.of("processor")[0].kill()
        self.proxy.heal()
        assert [(await site.page(api, "lobby"))[2] for api in (0, 1)] == [[1], [1]]


async def test_a_processor_that_starts_ends_what_the_one_before_it_could_not(site: Site, die_owing: DieOwing) -> None:
    await die_owing()
    (processor,) = site.fleet.of("processor")
    processor.start()
    await processor.ready()
    await fresh_pages_come(site)


async def test_a_processor_that_takes_over_ends_it_with_the_next_message(site: Site, die_owing: DieOwing) -> None:
    standby = site.fleet.another("processor", "processor-2")
    site.fleet.roles[standby.name] = standby
    standby.start()
    await standby.ready()
    await die_owing()
    async with site.writer() as writer:
        await writer.write("elsewhere")
    await fresh_pages_come(site)


async def fresh_pages_come(site: Site) -> None:
    reading = Reading()
    async with asyncio.timeout(LIFE_S):
        await asyncio.gather(*(poll(site, api, reading) for api in (0, 1)))
    print(reading)
    assert set(reading.statuses) == {200}


async def poll(site: Site, api: int, reading: Reading) -> None:
    """Read until the new page has come and stayed."""
    fresh = 0
    while fresh < 3:
        asked_at = time.monotonic()
        status, tier, (head,) = await site.page(api, "lobby")
        reading.statuses[status] += 1
        reading.tiers[tier] += 1
        reading.staleness_s.append(site.committed.staleness_s("lobby", head, asked_at))
        fresh = fresh + 1 if head == 2 else 0
        await asyncio.sleep(0.01)


def live_longer(redis_url: str) -> None:
    """Whatever is kept in Redis has been put there in the future."""
    with redis.Redis.from_url(redis_url) as raw:
        kept = raw.keys("{chatflow}:value:*")
        assert kept
        for key in kept:
            raw.hincrby(key, "at", LONGER_S * 1000)
            raw.expire(key, LONGER_S)


async def acked(rabbit: RabbitServer, vhost_url: str) -> None:
    """Wait until the broker has seen nothing unacked for longer than its counts are old."""
    vhost = urllib.parse.unquote(urllib.parse.urlsplit(vhost_url).path[1:])
    since = time.monotonic()
    while time.monotonic() - since < 2 * rabbit.stats_interval_s:
        queues = await asyncio.to_thread(rabbit.queues, vhost)
        if any(queue.messages for queue in queues.values()):
            since = time.monotonic()
