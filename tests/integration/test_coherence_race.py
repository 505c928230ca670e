"""A reader reads the old rows, a commit comes, the reader keeps what it read: at random, ten thousand times.

Each try ends with the question to both processes whether they are up to date. The same race with a cache that forgets
the version check must be lost now and then, or the test would show nothing.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import msgspec
import pytest

from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed, MemoryLeases
from chatflow.adapters.redis.services import open_redis
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.local_cache import LocalTier
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.commit_feed import Commit
from tests.harness.lifecycle import opened
from tests.reading_fakes import ListStore, body, local_tier, query_service
from tests.unit.fakes import cancel

TRIES = pytest.mark.parametrize("tries", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
AT_A_TIME = 50
PATIENCE_S = 20.0
"""For Redis on a busy machine; what is asked here is not how fast it answers."""


class SlowStore(ListStore):
    """Finds a room without looking through all, and holds rows back for a few turns after they were read."""

    async def room_page(self, room_id, *, limit, before_seq=None, window=None):
        rows = self.tables.rooms[room_id][::-1]
        await self._be_slow()
        return rows[:limit]

    async def room_range(self, room_id, *, after_seq, limit):
        rows = self.tables.rooms[room_id][after_seq : after_seq + limit]
        await self._be_slow()
        return rows

    async def _be_slow(self) -> None:
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)


@attrs.define(eq=False)
class Unversioned:
    """The same cache, storing under whatever version the tags have by then."""

    inner: MemoryCache

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def put(self, key, value, *, tags, version, ttl_s):
        now = (await self.inner.get(key, tags)).version
        await self.inner.put(key, value, tags=tags, version=now, ttl_s=ttl_s)


@asynccontextmanager
async def memory() -> AsyncIterator[list]:
    cache, leases = MemoryCache(time.monotonic), MemoryLeases(time.monotonic)
    services = (cache, leases, MemoryCommitFeed(cache))
    yield [services, services]


def _patient(url: str):
    return opened(open_redis(url, clock=time.monotonic, timeout_s=PATIENCE_S))


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[list]:
    async with _patient(url) as one, _patient(url) as other:
        yield [(each.cache, each.leases, each.feed) for each in (one, other)]


@attrs.define(eq=False)
class Race:
    """Two query services over what each has of the caches."""

    services: list
    is_local: bool = True
    store: SlowStore = attrs.field(factory=SlowStore)
    apis: list[QueryService] = attrs.field(init=False)
    tiers: list[LocalTier] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        if self.is_local:
            self.tiers = [local_tier(time.monotonic, feed) for _, _, feed in self.services]
        kept = self.tiers or [None] * len(self.services)
        self.apis = [self._api(*parts) for parts in zip(kept, self.services, strict=True)]

    def _api(self, local: LocalTier | None, services) -> QueryService:
        cache, leases, _ = services
        tiers = {"local": local, "shared": cache, "leases": leases, "draw": random.random}
        return query_service(self.store, clock=time.monotonic, **tiers)

    async def run(self, tries: int) -> int:
        """How many tries ended with a stale page, half a second after the commit."""
        following = [asyncio.create_task(tier.follow()) for tier in self.tiers]
        stale = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not all(tier.feed.is_current() for tier in self.tiers):
                    await asyncio.sleep(0.01)
            for start in range(0, tries, AT_A_TIME):
                stale += sum(await asyncio.gather(*(self._try(number) for number in range(start, start + AT_A_TIME))))
        finally:
            await cancel(*following)
            for api in self.apis:
                await api.cache.close()
        return stale

    async def _try(self, number: int) -> bool:
        room = f"room-{number}"
        self.store.add(room)
        await asyncio.gather(*(self._head(api, room) for api in self.apis), self._commit(room))
        deadline = time.monotonic() + 0.5  # what another process invalidates is on its way for a moment
        while [await self._head(api, room) for api in self.apis] != [2, 2]:
            if time.monotonic() > deadline:
                return True
            await asyncio.sleep(0.005)
        return False

    async def _commit(self, room: str) -> None:
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        commit = CachePolicy().commit_of([self.store.add(room)])
        await self.services[0][2].publish(commit if random.random() < 0.5 else Commit(commit.tags))

    async def _head(self, api: QueryService, room: str) -> int:
        messages = msgspec.json.decode(body(await api.answer(api.room(room, limit=1))))["messages"]
        return int(messages[0]["seq"]) if messages else 0


@TRIES
async def test_no_page_read_before_a_commit_is_served_after_it_in_memory(tries: int) -> None:
    async with memory() as services:
        assert await Race(services).run(tries) == 0


@TRIES
async def test_no_page_read_before_a_commit_is_served_after_it_on_redis(redis_url: str, tries: int) -> None:
    async with redis(redis_url) as services:
        assert await Race(services).run(tries) == 0


async def test_without_the_version_check_the_race_is_lost_now_and_then() -> None:
    async with memory() as services:
        broken = [(Unversioned(cache), leases, feed) for cache, leases, feed in services]
        assert await Race(broken, is_local=False).run(200) > 0
