"""Two api processes over one shared cache: a local cache each, one read for both, a cap while the cache is gone."""

import asyncio

import msgspec
import pytest

from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed, MemoryLeases
from chatflow.domain.reading.answers import Tier
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.ports.errors import CacheUnavailable, StoreOverloaded, StoreUnavailable
from tests.harness.clock import FakeClock
from tests.reading_fakes import ListStore, body, local_tier, query_service


class Shared(MemoryCache):
    """May be out of reach, for one method or for all."""

    broken: frozenset[str] = frozenset()

    def _check(self, method):
        if method in self.broken:
            raise CacheUnavailable("out of reach")

    async def get(self, key, tags):
        self._check("get")
        return await super().get(key, tags)

    async def put(self, key, value, **how):
        self._check("put")
        await super().put(key, value, **how)


class Leases(MemoryLeases):
    broken = False

    async def acquire(self, key, *, ttl_s):
        if self.broken:
            raise CacheUnavailable("out of reach")
        return await super().acquire(key, ttl_s=ttl_s)


class Fleet:
    """Two query services that share a cache, leases and a store."""

    def __init__(self, **options):
        self.clock, self.store = FakeClock(), ListStore()
        self.cache = Shared(self.clock)
        self.feed = MemoryCommitFeed(self.cache)
        self.leases = Leases(self.clock)
        self.tiers = [local_tier(self.clock, self.feed) for _ in range(2)]
        shared = {"shared": self.cache, "leases": self.leases} | options
        self.apis = [query_service(self.store, clock=self.clock, local=tier, **shared) for tier in self.tiers]
        self.following = []

    async def listen(self):
        self.following = [asyncio.create_task(tier.follow()) for tier in self.tiers]
        await asyncio.sleep(0)
        return self

    async def commit(self, room_id="5", **fields):
        stored = self.store.add(room_id, **fields)
        await self.cache.invalidate(CachePolicy().touched([stored]))

    async def close(self):
        for api in self.apis:
            await api.cache.close()
        for task in self.following:
            task.cancel()


@pytest.fixture
async def fleet():
    made = await Fleet().listen()
    yield made
    await made.close()


async def page(api, **options):
    answered = await api.answer(api.room("5", limit=10, **options))
    return [row["seq"] for row in msgspec.json.decode(body(answered))["messages"]], answered.source


async def turns(n=10):
    for _ in range(n):
        await asyncio.sleep(0)


async def test_a_page_comes_from_the_store_once_then_from_the_shared_cache_then_from_the_process(fleet):
    await fleet.commit()
    first, second = fleet.apis
    answers = [await page(api) for api in (first, first, second, second)]
    assert [source for _, source in answers] == [Tier.MISS, Tier.LOCAL, Tier.SHARED, Tier.LOCAL]
    assert fleet.store.calls["room_page"] == 1


async def test_a_commit_ends_the_page_in_every_process_at_once(fleet):
    await fleet.commit()
    for api in fleet.apis:
        await page(api)
    await fleet.commit()
    assert [await page(api) for api in fleet.apis] == [([2, 1], Tier.MISS), ([2, 1], Tier.SHARED)]


async def test_a_page_read_before_a_commit_and_kept_after_it_is_never_served_by_any_process(fleet):
    await fleet.commit()
    fleet.store.gate.clear()
    reading = asyncio.create_task(page(fleet.apis[0]))
    await turns()
    await fleet.commit()
    fleet.store.gate.set()
    assert (await reading)[0] == [1]
    assert [(await page(api))[0] for api in fleet.apis] == [[2, 1], [2, 1]]


async def test_a_page_found_in_the_shared_cache_before_a_commit_is_not_kept_locally_after_it(fleet):
    await fleet.commit()
    await page(fleet.apis[0])
    local, query = fleet.tiers[1].answers, fleet.apis[1].room("5", limit=10)
    seen = local.find(query.key, query.tags)
    await fleet.commit()
    local.keep(query.key, b"old", tags=query.tags, version=seen.version, ttl_s=1)
    assert await page(fleet.apis[1]) == ([2, 1], Tier.MISS)


async def test_two_processes_that_miss_at_the_same_time_cost_one_read(fleet):
    await fleet.commit()
    fleet.store.gate.clear()
    asking = [asyncio.create_task(page(api)) for api in fleet.apis for _ in range(500)]
    await turns()
    fleet.store.gate.set()
    answers = await asyncio.gather(*asking)
    assert {tuple(seqs) for seqs, _ in answers} == {(1,)}
    assert [source for _, source in answers].count(Tier.SHARED) == 500
    assert fleet.store.calls["room_page"] == 1


async def test_a_crowd_in_one_process_asks_the_shared_cache_once(fleet):
    await fleet.commit()
    await page(fleet.apis[0])
    asked = []
    get = fleet.cache.get

    async def counted(key, tags):
        asked.append(key)
        await asyncio.sleep(0)
        return await get(key, tags)

    fleet.cache.get = counted
    answers = await asyncio.gather(*(page(fleet.apis[1]) for _ in range(500)))
    assert {source for _, source in answers} == {Tier.SHARED}
    assert len(asked) == 1


async def test_who_asks_after_a_commit_does_not_join_who_asked_before_it(fleet):
    await fleet.commit()
    fleet.store.gate.clear()
    before = asyncio.create_task(page(fleet.apis[0]))
    await turns()
    await fleet.commit()
    after = asyncio.create_task(page(fleet.apis[0]))
    await turns()
    fleet.store.gate.set()
    assert (await before)[0] == [1]
    assert (await after)[0] == [2, 1]


async def test_a_holder_that_fails_does_not_take_the_other_process_along(fleet):
    await fleet.commit()
    read, failures = fleet.store.room_page, [StoreUnavailable("down")]

    async def fails_once(*args, **options):
        rows = await read(*args, **options)
        if failures:
            raise failures.pop()
        return rows

    fleet.store.room_page = fails_once
    fleet.store.gate.clear()
    holder = asyncio.create_task(page(fleet.apis[0]))
    await turns()
    waiting = asyncio.create_task(page(fleet.apis[1]))
    await turns()
    fleet.store.gate.set()
    with pytest.raises(StoreUnavailable):
        await holder
    assert await waiting == ([1], Tier.MISS)


async def test_a_lease_whose_holder_has_died_is_waited_for_no_longer_than_it_lives(fleet):
    await fleet.commit()
    version = (await fleet.cache.get("room:5:10::", ["room:5"])).version
    assert await fleet.leases.acquire(f"room:5:10::@{version.stamps[0]}", ttl_s=60)
    started = fleet.clock()
    assert await page(fleet.apis[0]) == ([1], Tier.MISS)
    assert 2.0 <= fleet.clock() - started < 2.1


async def test_a_lease_is_given_back_with_the_answer(fleet):
    await fleet.commit()
    version = (await fleet.cache.get("room:5:10::", ["room:5"])).version
    await page(fleet.apis[0])
    assert await fleet.leases.acquire(f"room:5:10::@{version.stamps[0]}", ttl_s=60)


async def test_without_leases_to_be_had_each_process_reads_for_itself(fleet):
    await fleet.commit()
    fleet.leases.broken = True
    assert await page(fleet.apis[0]) == ([1], Tier.MISS)


async def test_a_cache_that_goes_while_one_waits_for_a_holder_ends_the_wait(fleet):
    await fleet.commit()
    version = (await fleet.cache.get("room:5:10::", ["room:5"])).version
    await fleet.leases.acquire(f"room:5:10::@{version.stamps[0]}", ttl_s=60)
    asking = asyncio.create_task(page(fleet.apis[0]))
    await asyncio.sleep(0)
    fleet.cache.broken = frozenset({"get", "put"})
    assert await asking == ([1], Tier.MISS)
    assert fleet.clock() < 1001.0


async def test_while_the_shared_cache_is_out_of_reach_the_process_keeps_its_own_answers(fleet):
    await fleet.commit()
    fleet.cache.broken = frozenset({"get", "put"})
    assert [(await page(fleet.apis[0]))[1] for _ in range(2)] == [Tier.MISS, Tier.LOCAL]


async def test_reads_without_the_shared_cache_are_capped_and_the_next_is_refused():
    fleet = Fleet(uncached_limit=3)  # nobody listens: the local cache is off
    fleet.cache.broken = frozenset({"get", "put"})
    fleet.store.gate.clear()
    reading = [asyncio.create_task(fleet.apis[0].answer(fleet.apis[0].top_rooms(n))) for n in (1, 2, 3)]
    await turns()
    with pytest.raises(StoreOverloaded):
        await fleet.apis[0].answer(fleet.apis[0].top_rooms(4))
    fleet.store.gate.set()
    await asyncio.gather(*reading)
    await fleet.apis[0].answer(fleet.apis[0].top_rooms(4))
    await fleet.close()


async def test_nothing_is_capped_while_the_shared_cache_works():
    fleet = await Fleet(uncached_limit=3).listen()
    fleet.store.gate.clear()
    reading = [asyncio.create_task(fleet.apis[0].answer(fleet.apis[0].top_rooms(n))) for n in range(1, 10)]
    await turns()
    fleet.store.gate.set()
    assert len(await asyncio.gather(*reading)) == 9
    await fleet.close()


async def test_an_answer_is_kept_locally_for_no_longer_than_it_may_be_served_at_all(fleet):
    await fleet.apis[0].answer(fleet.apis[0].top_rooms(10))
    fleet.clock.advance(28)
    fleet.store.gate.clear()  # the refresh that this starts does not end
    assert (await fleet.apis[1].answer(fleet.apis[1].top_rooms(10))).source is Tier.SHARED
    fleet.clock.advance(1.9)
    assert (await fleet.apis[1].answer(fleet.apis[1].top_rooms(10))).source is Tier.LOCAL
    fleet.clock.advance(0.2)
    asking = asyncio.create_task(fleet.apis[1].answer(fleet.apis[1].top_rooms(10)))
    await turns()
    fleet.store.gate.set()
    assert (await asking).source is Tier.MISS


async def test_min_seq_passes_over_a_local_page_that_is_behind_it(fleet):
    await fleet.commit()
    await page(fleet.apis[0])
    assert await page(fleet.apis[0], min_seq=1) == ([1], Tier.LOCAL)
    fleet.store.add("5")  # committed, and its invalidation still on its way
    assert await page(fleet.apis[0], min_seq=2) == ([2, 1], Tier.MISS)


async def test_what_this_process_has_is_told_without_waiting_unless_it_is_behind(fleet):
    api = fleet.apis[0]
    await fleet.commit()
    assert api.answer_locally(api.room("5", limit=10)) is None
    await page(api)
    assert api.answer_locally(api.room("5", limit=10, min_seq=1)).source is Tier.LOCAL
    assert api.answer_locally(api.room("5", limit=10, min_seq=2)) is None
