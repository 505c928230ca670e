"""A commit that nobody can be told of any more: its processor died owing the invalidation."""

import asyncio
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatflow.domain.cache_policy import RULES, Family
from tests.e2e.reading import Reading, Site, open_site
from tests.harness.proxy import FaultProxy
from tests.harness.rabbit import RabbitServer
from tests.load.fleet import Fleet

pytestmark = pytest.mark.xdist_group("servers")

BOUND_S = RULES[Family.ROOM_NEWEST].l2_ttl_s


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


async def test_a_page_whose_end_nobody_could_tell_is_served_no_longer_than_it_lives(
    site: Site, processor_proxy: FaultProxy, rabbit_server: RabbitServer, vhost_url: str
) -> None:
    (processor,) = site.fleet.of("processor")
    reading = Reading()
    async with site.writer() as writer:
        await writer.write("lobby")
        for api in (0, 1):
            await site.hits_come(api, "lobby")
        processor_proxy.half_open()
        await writer.write("lobby")
    told_at = time.monotonic()
    pollers = [asyncio.create_task(poll(site, api, reading)) for api in (0, 1)]
    await acked(rabbit_server, vhost_url)  # a delivery that comes again would be invalidated again
    processor.kill()
    processor_proxy.heal()
    processor.start()
    await asyncio.gather(*pollers)
    print(f"stale for {max(reading.staleness_s):.2f} s, {time.monotonic() - told_at:.2f} s until it is over: {reading}")
    assert set(reading.statuses) == {200}
    assert 0 < max(reading.staleness_s) <= BOUND_S, str(reading)
    await processor.ready()


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


async def acked(rabbit: RabbitServer, vhost_url: str) -> None:
    """Wait until the broker has seen nothing unacked for longer than its figures are old."""
    vhost = urllib.parse.unquote(urllib.parse.urlsplit(vhost_url).path[1:])
    since = time.monotonic()
    while time.monotonic() - since < 2 * rabbit.stats_interval_s:
        queues = await asyncio.to_thread(rabbit.queues, vhost)
        if any(queue.messages for queue in queues.values()):
            since = time.monotonic()
