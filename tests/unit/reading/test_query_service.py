"""The read side's use case over fakes: what is cached under which version, and what happens when something is down."""

import asyncio

import msgspec
import pytest

from chatflow.adapters.memory.cache import MemoryCache
from chatflow.domain.reading.answers import Tier
from chatflow.domain.reading.cache_policy import CachePolicy
from chatflow.domain.reading.cursors import InvalidCursor
from chatflow.domain.reading.query_service import PATIENCE_S, Behind
from chatflow.domain.reading.read_cache import REFRESHES
from chatflow.ports.cache import Lookup, Version
from chatflow.ports.errors import CacheUnavailable, StoreOverloaded, StoreUnavailable
from chatflow.ports.store import TimeWindow
from tests.harness.clock import FakeClock
from tests.reading_fakes import START_US, ListStore, body, query_service

ALL_CALLS = [
    ("room_page", lambda q: q.answer(q.room("5", limit=10))),
    ("user_page", lambda q: q.answer(q.user(1, limit=10))),
    ("active_users", lambda q: q.answer(q.active_users(TimeWindow()))),
    ("user_rooms", lambda q: q.answer(q.user_rooms(1, limit=10))),
    ("throughput", lambda q: q.answer(q.throughput(60))),
    ("top_users", lambda q: q.answer(q.top_users(10))),
    ("top_rooms", lambda q: q.answer(q.top_rooms(10))),
    ("patterns", lambda q: q.answer(q.patterns())),
    ("total_messages", lambda q: q.answer(q.total())),
]
each_query = pytest.mark.parametrize(("method", "ask"), ALL_CALLS, ids=[name for name, _ in ALL_CALLS])


class BrokenCache:
    """Down, from the first call or only for what it is told."""

    def __init__(self, inner, *broken):
        self.inner, self.broken = inner, broken

    def __getattr__(self, name):
        if name in self.broken:
            raise CacheUnavailable("down")
        return getattr(self.inner, name)


class World:
    """A service over a list store and a memory cache, on one fake clock."""

    def __init__(self, *, cached=True):
        self.clock = FakeClock()
        self.store = ListStore()
        self.cache = MemoryCache(self.clock) if cached else None
        self.policy = CachePolicy()
        self.queries = self.over(self.cache)

    def over(self, cache, **options):
        return query_service(self.store, clock=self.clock, shared=cache, policy=self.policy, **options)

    async def commit(self, room_id, **fields):
        """What the processor does: store, then invalidate."""
        stored = self.store.add(room_id, **fields)
        await self.cache.invalidate(self.policy.touched([stored]))
        return stored

    async def page(self, **options):
        answered = await self.queries.answer(self.queries.room("5", limit=options.pop("limit", 10), **options))
        return seqs(answered), answered.source


def seqs(answered):
    return [row["seq"] for row in msgspec.json.decode(body(answered))["messages"]]


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.queries.cache.close()


@each_query
async def test_the_second_asking_is_answered_by_the_cache_with_the_same_bytes(world, method, ask):
    world.store.add("5")
    first, second = await ask(world.queries), await ask(world.queries)
    assert (first.source, second.source) == (Tier.MISS, Tier.SHARED)
    assert body(first) == body(second)
    assert world.store.calls[method] == 1


@each_query
async def test_without_a_cache_every_query_goes_to_the_store(method, ask):
    world = World(cached=False)
    sources = [(await ask(world.queries)).source for _ in range(3)]
    assert sources == [Tier.MISS] * 3
    assert world.store.calls[method] == 3


@each_query
async def test_a_cache_that_is_down_is_never_an_error(world, method, ask):
    world.store.add("5")
    for broken in (("get", "put"), ("put",), ("get",)):
        queries = world.over(BrokenCache(world.cache, *broken))
        assert (await ask(queries)).source is Tier.MISS
        assert queries.cache.metrics.cache_errors >= 1


@each_query
async def test_an_error_of_the_store_reaches_the_caller_and_is_not_cached(world, method, ask):
    world.store.error = StoreOverloaded("full")
    with pytest.raises(StoreOverloaded):
        await ask(world.queries)
    world.store.error = None
    assert (await ask(world.queries)).source is Tier.MISS


async def test_a_commit_ends_the_pages_of_its_room_and_user_at_once(world):
    await world.commit("5", user_id=7)
    await world.page()
    await world.queries.answer(world.queries.user(7, limit=10))
    await world.queries.answer(world.queries.user_rooms(7, limit=10))
    await world.commit("5", user_id=7)
    assert await world.page() == ([2, 1], Tier.MISS)
    assert len(seqs(await world.queries.answer(world.queries.user(7, limit=10)))) == 2
    assert (await world.queries.answer(world.queries.user_rooms(7, limit=10))).source is Tier.MISS


async def test_a_commit_in_another_room_by_another_user_leaves_the_page_alone(world):
    await world.commit("5", user_id=7)
    await world.page()
    await world.commit("6", user_id=8)
    assert await world.page() == ([1], Tier.SHARED)


async def test_a_page_read_before_a_commit_and_stored_after_it_is_never_served(world):
    await world.commit("5")
    world.store.gate.clear()
    reading = asyncio.create_task(world.page())
    await turns()
    await world.commit("5")
    world.store.gate.set()
    assert await reading == ([1], Tier.MISS)
    assert await world.page() == ([2, 1], Tier.MISS)


async def test_who_asks_after_a_commit_does_not_join_a_read_from_before_it(world):
    await world.commit("5")
    world.store.gate.clear()
    before = asyncio.create_task(world.page())
    await turns()
    await world.commit("5")
    after = asyncio.create_task(world.page())
    await turns()
    world.store.gate.set()
    assert (await before)[0] == [1]
    assert (await after)[0] == [2, 1]


@pytest.mark.parametrize("broken", [(), ("get",)])
async def test_a_thousand_concurrent_misses_cost_one_read(world, broken):
    world.store.add("5")
    queries = world.over(BrokenCache(world.cache, *broken))
    world.store.gate.clear()
    asking = [asyncio.create_task(queries.answer(queries.room("5", limit=10))) for _ in range(1000)]
    await turns()
    world.store.gate.set()
    answers = await asyncio.gather(*asking)
    assert {tuple(seqs(answer)) for answer in answers} == {(1,)}
    assert world.store.calls["room_page"] == 1


async def test_pages_end_with_their_time(world):
    world.store.add("5")
    await world.page()
    world.store.add("5")  # a commit whose invalidation was lost
    world.clock.advance(9.9)
    assert await world.page() == ([1], Tier.SHARED)
    world.clock.advance(0.2)
    assert await world.page() == ([2, 1], Tier.MISS)


async def test_an_old_count_is_served_while_one_caller_refreshes_it(world):
    await world.queries.answer(world.queries.top_rooms(10))
    world.store.add("5")
    world.clock.advance(25)
    world.store.gate.clear()
    stale = await asyncio.gather(*(world.queries.answer(world.queries.top_rooms(10)) for _ in range(20)))
    assert {answer.source for answer in stale} == {Tier.SHARED}
    assert all(b'"rooms":[]' in body(answer) for answer in stale)
    await turns()
    assert world.store.calls["top_rooms"] == 2
    world.store.gate.set()
    await turns()
    refreshed = await world.queries.answer(world.queries.top_rooms(10))
    assert (refreshed.source, b'"room_id":"5"' in body(refreshed)) == (Tier.SHARED, True)
    assert (world.queries.cache.metrics.stale, world.queries.cache.metrics.refreshes) == (20, 1)


async def test_a_count_past_its_bound_is_read_again(world):
    await world.queries.answer(world.queries.top_rooms(10))
    world.store.add("5")
    world.clock.advance(30)
    answer = await world.queries.answer(world.queries.top_rooms(10))
    assert (answer.source, b'"room_id":"5"' in body(answer)) == (Tier.MISS, True)


async def test_a_refresh_that_fails_leaves_the_old_count_serving(world):
    await world.queries.answer(world.queries.total())
    world.clock.advance(2.5)
    world.store.error = StoreUnavailable("down")
    assert (await world.queries.answer(world.queries.total())).source is Tier.SHARED
    await turns()
    assert (await world.queries.answer(world.queries.total())).source is Tier.SHARED
    world.clock.advance(1)
    with pytest.raises(StoreUnavailable):
        await world.queries.answer(world.queries.total())


async def test_refreshes_are_bounded_and_stop_on_close(world):
    for n in range(1, 3 * REFRESHES):
        await world.queries.answer(world.queries.top_rooms(n))
    world.clock.advance(25)
    world.store.gate.clear()
    for n in range(1, 3 * REFRESHES):
        await world.queries.answer(world.queries.top_rooms(n))
    assert world.queries.cache.metrics.refreshes == REFRESHES
    await world.queries.cache.close()


async def test_following_the_cursor_visits_every_message_of_a_room_once_despite_inserts(world):
    for _ in range(25):
        world.store.add("5")
    seen, cursor = [], None
    while True:
        answered = await world.queries.answer(world.queries.room("5", limit=4, cursor=cursor))
        seen += seqs(answered)
        cursor = msgspec.json.decode(body(answered))["next_cursor"]
        await world.commit("5")
        if cursor is None:
            break
    assert seen == list(range(25, 0, -1))


async def test_following_the_cursor_visits_every_message_of_a_user_once_despite_ties(world):
    for n in range(30):
        world.store.add(str(n % 3), user_id=7, at_us=START_US + n // 10)
    seen, cursor = [], None
    while True:
        answered = await world.queries.answer(world.queries.user(7, limit=4, cursor=cursor))
        decoded = msgspec.json.decode(body(answered))
        seen += [(row["message"]["room_id"], row["seq"]) for row in decoded["messages"]]
        cursor = decoded["next_cursor"]
        await world.commit("9", user_id=7, at_us=START_US + 100)
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 30


async def test_an_older_page_of_a_user_that_gains_a_late_message_is_not_served_from_before(world):
    for n in range(4):
        await world.commit("5", user_id=7, at_us=START_US + 10 * n)
    first = msgspec.json.decode(body(await world.queries.answer(world.queries.user(7, limit=2))))
    await world.queries.answer(world.queries.user(7, limit=2, cursor=first["next_cursor"]))
    await world.commit("6", user_id=7, at_us=START_US + 5)  # accepted long ago, committed now
    older = await world.queries.answer(world.queries.user(7, limit=2, cursor=first["next_cursor"]))
    times = [row["message"]["accepted_at_us"] - START_US for row in msgspec.json.decode(body(older))["messages"]]
    assert times == [10, 5]


async def test_a_page_that_ends_exactly_at_the_first_message_has_no_next(world):
    for _ in range(4):
        world.store.add("5")
    assert (
        msgspec.json.decode(body(await world.queries.answer(world.queries.room("5", limit=4))))["next_cursor"] is None
    )


async def test_windows_limits_rooms_and_users_do_not_share_cached_pages(world):
    for n in range(6):
        world.store.add("5", user_id=1, at_us=START_US + n)
        world.store.add("6", user_id=2, at_us=START_US + n)
    queries = world.queries
    asks = [
        lambda: queries.answer(queries.room("5", limit=2)),
        lambda: queries.answer(queries.room("5", limit=3)),
        lambda: queries.answer(queries.room("6", limit=2)),
        lambda: queries.answer(queries.room("5", limit=2, window=TimeWindow(START_US, None))),
        lambda: queries.answer(queries.room("5", limit=2, window=TimeWindow(None, START_US))),
        lambda: queries.answer(queries.user(1, limit=2)),
        lambda: queries.answer(queries.user(2, limit=2)),
        lambda: queries.answer(queries.user(2, limit=2, window=TimeWindow(START_US, START_US + 1))),
        lambda: queries.answer(queries.active_users(TimeWindow())),
        lambda: queries.answer(queries.active_users(TimeWindow(START_US + 1, None))),
        lambda: queries.answer(queries.active_users(TimeWindow(None, START_US + 1))),
    ]
    assert [(await ask()).source for ask in asks] == [Tier.MISS] * len(asks)


async def test_a_foreign_cursor_is_refused_before_anything_is_read(world):
    for _ in range(3):
        world.store.add("5")
    decoded = msgspec.json.decode(body(await world.queries.answer(world.queries.room("5", limit=1))))
    queries = world.queries
    for misuse in (
        lambda: queries.room("6", limit=1, cursor=decoded["next_cursor"]),
        lambda: queries.user(1, limit=1, cursor=decoded["next_cursor"]),
        lambda: queries.room("5", limit=1, cursor="rubbish"),
    ):
        with pytest.raises(InvalidCursor):
            misuse()
    assert world.store.calls["room_page"] == 1


async def test_min_seq_is_answered_from_the_cache_when_the_page_is_new_enough(world):
    await world.commit("5")
    await world.commit("5")
    await world.page()
    assert await world.page(min_seq=2) == ([2, 1], Tier.SHARED)
    assert world.store.calls["heads"] == 0


async def test_min_seq_passes_over_a_page_from_before_it(world):
    world.store.add("5")
    await world.page()
    world.store.add("5")  # its invalidation has not come yet
    assert await world.page() == ([1], Tier.SHARED)
    assert await world.page(min_seq=2) == ([2, 1], Tier.MISS)


async def test_min_seq_waits_for_the_commit_that_is_on_its_way(world):
    world.store.add("5")
    waits = []

    async def sleep(seconds):
        await world.clock.sleep(seconds)
        waits.append(seconds)
        if len(waits) == 3:
            await world.commit("5")

    world.queries = world.over(world.cache, sleep=sleep)
    assert await world.page(min_seq=2) == ([2, 1], Tier.MISS)
    assert len(waits) == 3


async def test_min_seq_gives_up_after_half_a_second(world):
    world.store.add("5")
    started = world.clock()
    with pytest.raises(Behind) as caught:
        await world.page(min_seq=2)
    assert caught.value.head == 1
    assert PATIENCE_S <= world.clock() - started <= PATIENCE_S + 0.02


async def test_min_seq_of_an_unknown_room_is_behind(world):
    with pytest.raises(Behind) as caught:
        await world.queries.answer(world.queries.room("nobody", limit=1, min_seq=1))
    assert caught.value.head == 0


async def test_min_seq_does_not_join_a_read_from_before_it(world):
    world.store.add("5")
    world.store.gate.clear()
    early = asyncio.create_task(world.page())
    await turns()
    world.store.add("5")
    late = asyncio.create_task(world.page(min_seq=2))
    await turns()
    world.store.gate.set()
    assert (await early)[0] == [1]
    assert (await late)[0] == [2, 1]


async def test_min_seq_holds_for_older_and_windowed_pages_too(world):
    for n in range(4):
        world.store.add("5", at_us=START_US + n)
    decoded = msgspec.json.decode(body(await world.queries.answer(world.queries.room("5", limit=2))))
    older = await world.queries.answer(world.queries.room("5", limit=2, cursor=decoded["next_cursor"], min_seq=4))
    assert seqs(older) == [2, 1]
    windowed = await world.queries.answer(
        world.queries.room("5", limit=2, window=TimeWindow(None, START_US), min_seq=4)
    )
    assert seqs(windowed) == [1]
    with pytest.raises(Behind):
        await world.queries.answer(world.queries.room("5", limit=2, cursor=decoded["next_cursor"], min_seq=5))


async def test_answers_are_counted_by_query_and_tier(world):
    await world.page()
    await world.page()
    await world.queries.answer(world.queries.total())
    metrics = world.queries.cache.metrics
    assert metrics.answers == {("room", "miss"): 1, ("room", "l2"): 1, ("total", "miss"): 1}
    assert (metrics.answered_by(Tier.SHARED), metrics.answered_by(Tier.MISS)) == (1, 2)
    assert metrics.took_s["room"].count == 2


async def test_a_version_that_the_cache_lost_is_a_miss(world):
    """A cache that restarts must not make an old value current again; the service passes on what it was given."""
    seen = []

    class Recording:
        async def get(self, key, tags):
            return Lookup(None, Version(("v7",)))

        async def put(self, key, value, *, tags, version, ttl_s):
            seen.append((tags, version, ttl_s))

    queries = world.over(Recording())
    await queries.answer(queries.room("5", limit=1))
    assert seen == [(("room:5",), Version(("v7",)), 10)]
