"""What every cache promises, over each adapter: versions, lifetimes, limits, and the race of read, commit and fill."""

import asyncio
import time
from typing import ClassVar

import attrs
import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from chatflow.adapters.memory.cache import MemoryCache
from chatflow.ports.cache import Version
from tests.contract.cache_harnesses import TECHNOLOGIES, Open, opener
from tests.harness.clock import FakeClock


@pytest.fixture(params=TECHNOLOGIES)
def open_backend(request):
    return opener(request)


@pytest.fixture
async def backend(open_backend):
    async with open_backend() as opened:
        yield opened


@pytest.fixture
def cache(backend):
    return backend.cache


async def fill(cache, key="k", value=b"v", tags=("t",), ttl_s=60.0):
    version = (await cache.get(key, tags)).version
    await cache.put(key, value, tags=tags, version=version, ttl_s=ttl_s)


async def value_of(cache, key="k", tags=("t",)):
    return (await cache.get(key, tags)).value


async def test_a_key_never_stored_is_a_miss(cache):
    lookup = await cache.get("k", ("t", "u"))
    assert (lookup.value, lookup.age_s) == (None, 0.0)


async def test_a_stored_value_comes_back_whole(cache):
    value = bytes(range(256)) * 40
    await fill(cache, value=value)
    assert await value_of(cache) == value
    await fill(cache, "empty", b"")
    assert await value_of(cache, "empty") == b""


async def test_the_last_value_stored_wins(cache):
    await fill(cache, value=b"one")
    await fill(cache, value=b"two")
    assert await value_of(cache) == b"two"


async def test_the_version_stays_while_nothing_is_invalidated(cache):
    first = (await cache.get("k", ("t",))).version
    await fill(cache)
    assert (await cache.get("other", ("t",))).version == first


async def test_invalidating_any_of_its_tags_ends_a_value(cache):
    for touched in ("t", "u"):
        await fill(cache, tags=("t", "u"))
        await cache.invalidate([touched])
        assert await value_of(cache, tags=("t", "u")) is None


async def test_invalidating_one_tag_leaves_the_others_alone(cache):
    await fill(cache, "a", tags=("t",))
    await fill(cache, "b", tags=("u",))
    await cache.invalidate(["t", "never-used"])
    assert await value_of(cache, "a", ("t",)) is None
    assert await value_of(cache, "b", ("u",)) == b"v"


async def test_invalidating_everything_ends_every_value_and_what_was_read_before(cache):
    reader = (await cache.get("late", ("t",))).version
    await fill(cache, "a", tags=("t",))
    await fill(cache, "b", tags=())
    await cache.invalidate(None)
    await cache.put("late", b"old", tags=("t",), version=reader, ttl_s=60)
    assert await value_of(cache, "a") is None
    assert await value_of(cache, "b", ()) is None
    assert await value_of(cache, "late") is None
    await fill(cache, "a")
    assert await value_of(cache, "a") == b"v"


async def test_a_value_without_tags_ends_by_time_or_with_everything(cache, backend):
    await fill(cache, tags=(), ttl_s=60)
    await cache.invalidate(["t"])
    assert await value_of(cache, tags=()) == b"v"
    await backend.advance(60.1)
    assert await value_of(cache, tags=()) is None


async def test_a_value_read_before_a_commit_and_stored_after_it_is_never_returned(cache):
    reader = (await cache.get("k", ("t",))).version
    await cache.invalidate(["t"])
    await cache.put("k", b"old", tags=("t",), version=reader, ttl_s=60)
    assert await value_of(cache) is None


async def test_a_late_old_value_does_not_survive_later_invalidations_either(cache):
    reader = (await cache.get("k", ("t",))).version
    await cache.invalidate(["t"])
    await fill(cache, value=b"new")
    await cache.put("k", b"old", tags=("t",), version=reader, ttl_s=60)
    await cache.invalidate(["t"])
    assert await value_of(cache) is None


async def test_a_late_old_value_does_not_displace_a_new_one(cache):
    reader = (await cache.get("k", ("t",))).version
    await cache.invalidate(["t"])
    await fill(cache, value=b"new")
    await cache.put("k", b"old", tags=("t",), version=reader, ttl_s=60)
    assert await value_of(cache) == b"new"


async def test_many_readers_and_commits_never_leave_an_old_value(cache):
    """The source is a counter; each commit raises it and then invalidates. A hit must not be older than the last
    invalidation that had returned when the reader asked."""
    source = settled = 0

    async def read() -> None:
        bound = settled
        lookup = await cache.get("k", ("t",))
        if lookup.value is not None:
            assert int(lookup.value) >= bound
            return
        value = source
        for _ in range(value % 3):
            await asyncio.sleep(0)
        await cache.put("k", str(value).encode(), tags=("t",), version=lookup.version, ttl_s=60)

    async def commit() -> None:
        nonlocal source, settled
        source += 1
        mine = source
        await asyncio.sleep(0)
        await cache.invalidate(["t"])
        settled = max(settled, mine)

    for _ in range(200):
        await asyncio.gather(*(read() for _ in range(5)), commit(), *(read() for _ in range(5)))
    assert settled == 200
    await read()
    assert await value_of(cache) == b"200"


async def test_a_lost_version_is_a_miss_and_never_matches_again(cache, backend):
    await fill(cache, value=b"old")
    before = (await cache.get("k", ("t",))).version
    await backend.forget_versions()
    lookup = await cache.get("k", ("t",))
    assert lookup.value is None
    assert lookup.version != before
    await cache.put("k", b"older", tags=("t",), version=before, ttl_s=60)
    assert await value_of(cache) is None


async def test_a_version_nobody_gave_out_is_not_accepted(cache):
    await cache.get("k", ("t",))
    await cache.put("k", b"v", tags=("t",), version=Version(("made up",)), ttl_s=60)
    assert await value_of(cache) is None


async def test_a_value_ends_with_its_time(cache, backend):
    await fill(cache, ttl_s=60)
    await backend.advance(30)
    assert await value_of(cache) == b"v"
    await backend.advance(30.1)
    assert await value_of(cache) is None


async def test_age_counts_from_the_last_store(cache, backend):
    await fill(cache, ttl_s=600)
    await backend.advance(100)
    assert 99.9 < (await cache.get("k", ("t",))).age_s < 150
    await fill(cache, ttl_s=600)
    assert (await cache.get("k", ("t",))).age_s < 50


async def test_a_cache_that_lives_answers_a_ping(cache):
    assert await cache.ping() is None


async def test_a_value_stored_under_other_tags_is_returned_only_while_those_are_current(cache):
    await fill(cache, tags=("t",))
    await cache.invalidate(["t"])
    assert await value_of(cache, tags=()) is None
    assert await value_of(cache, tags=("u",)) is None


async def test_any_text_is_a_key_or_a_tag(cache):
    odd = ['\x00"}', "{other}", "a b\r\n", "*", "ü" * 300]
    for name in odd:
        await fill(cache, name, name.encode(), tags=(name,))
    assert [await value_of(cache, name, (name,)) for name in odd] == [name.encode() for name in odd]
    await cache.invalidate(odd)
    assert [await value_of(cache, name, (name,)) for name in odd] == [None] * len(odd)


async def test_nothing_and_very_many_tags_can_be_invalidated(cache):
    await fill(cache, tags=("t", "room:9999"))
    await cache.invalidate([])
    assert await value_of(cache, tags=("t", "room:9999")) == b"v"
    await cache.invalidate([f"room:{n}" for n in range(10_000)])
    assert await value_of(cache, tags=("t", "room:9999")) is None


async def test_a_lifetime_of_nought_keeps_nothing(cache):
    await fill(cache, ttl_s=0)
    assert await value_of(cache) is None


# Leases.


async def test_one_of_many_gets_the_lease_and_another_one_after_it(backend):
    leases = backend.leases
    taken = [lease for lease in await asyncio.gather(*(leases.acquire("k", ttl_s=60) for _ in range(50))) if lease]
    assert len(taken) == 1
    assert await leases.acquire("other", ttl_s=60) is not None
    await leases.release(taken[0])
    assert await leases.acquire("k", ttl_s=60) is not None


async def test_a_lease_ends_with_its_time_and_its_late_release_takes_nothing_from_the_next_holder(backend):
    late = await backend.leases.acquire("k", ttl_s=60)
    await backend.advance(60.1)
    assert await backend.leases.acquire("k", ttl_s=60) is not None
    await backend.leases.release(late)
    assert await backend.leases.acquire("k", ttl_s=60) is None


# What only the memory cache can be asked: its limits.


def small(**limits):
    return MemoryCache(FakeClock(), **limits)


async def test_the_least_recently_used_entry_goes_first():
    cache = small(limit_entries=3)
    for key in "abc":
        await fill(cache, key)
    await value_of(cache, "a")
    await fill(cache, "d")
    assert [await value_of(cache, key) for key in "abcd"] == [b"v", None, b"v", b"v"]
    assert (len(cache), cache.evictions) == (3, 1)


async def test_bytes_stay_under_their_limit():
    cache = small(limit_bytes=10_000)
    for n in range(200):
        await fill(cache, f"key{n}", b"x" * (n * 7 % 900))
        assert cache.size_bytes <= 10_000
    assert await value_of(cache, "key199") is not None


async def test_a_value_that_cannot_fit_is_not_kept_and_crowds_nobody_out():
    cache = small(limit_bytes=5_000)
    await fill(cache, "small")
    await fill(cache, "big", b"x" * 5_000)
    assert await value_of(cache, "big") is None
    assert await value_of(cache, "small") == b"v"


async def test_bytes_are_given_back():
    clock = FakeClock()
    cache = MemoryCache(clock)
    await fill(cache, "replaced", b"x" * 1000)
    await fill(cache, "replaced", b"x")
    await fill(cache, "expired", ttl_s=1)
    await fill(cache, "invalidated", tags=("u",))
    clock.advance(2)
    await cache.invalidate(["u"])
    await value_of(cache, "expired")
    await value_of(cache, "invalidated", ("u",))
    assert len(cache) == 1
    only = cache.size_bytes
    await cache.invalidate(["t"])
    await value_of(cache, "replaced")
    assert (cache.size_bytes, len(cache), only > 0) == (0, 0, True)


async def test_tags_are_bounded_and_a_tag_crowded_out_is_a_miss():
    cache = small(limit_tags=10)
    await fill(cache, "k", tags=("first",))
    for n in range(1000):
        await cache.get("x", (f"tag{n}",))
    assert len(cache._stamps) == 10
    assert await value_of(cache, "k", ("first",)) is None


async def test_a_cleared_cache_is_empty_and_refuses_what_was_being_read():
    cache = small()
    await fill(cache, "k")
    reader = (await cache.get("other", ("t",))).version
    cache.forget(None)
    await cache.put("other", b"old", tags=("t",), version=reader, ttl_s=60)
    assert [await value_of(cache, key) for key in ("k", "other")] == [None, None]
    assert (len(cache), cache.size_bytes) == (0, 0)


KEYS = st.sampled_from(["a", "b", "c"])
TAG_SETS = st.sampled_from([(), ("t",), ("u",), ("t", "u")])


@attrs.define
class Stored:
    value: bytes
    tags: tuple[str, ...]
    generations: tuple[int, ...]
    expires_at: float
    put_at: float


class CacheMachine(RuleBasedStateMachine):
    """Compares a cache with a model that remembers everything."""

    open_backend: ClassVar[Open]

    @initialize()
    def start(self):
        self.runner = asyncio.Runner()
        self.stack = type(self).open_backend()
        self.backend = self.runner.run(self.stack.__aenter__())
        self.now = 0.0
        self.generations = {"t": 0, "u": 0}
        self.stored: dict[str, Stored] = {}
        self.held: list[tuple[str, tuple[str, ...], Version, tuple[int, ...]]] = []
        self.serial = 0

    def generation(self, tags):
        return tuple(self.generations[tag] for tag in tags)

    def get(self, key, tags):
        lookup = self.runner.run(self.backend.cache.get(key, tags))
        entry = self.stored.get(key)
        alive = entry and self.now < entry.expires_at and entry.generations == self.generation(entry.tags)
        if entry and not alive:
            assert lookup.value is None
        # A server's time passes by itself, too: however slow this machine is, an early end is no loss.
        if alive and entry.tags == tags and self.now + time.monotonic() - entry.put_at < entry.expires_at:
            assert lookup.value == entry.value
        return lookup

    @rule(key=KEYS, tags=TAG_SETS)
    def reader_asks(self, key, tags):
        lookup = self.get(key, tags)
        self.held.append((key, tags, lookup.version, self.generation(tags)))

    @rule(pick=st.integers(0, 50), ttl_s=st.sampled_from([1.0, 10.0, 60.0]))
    def reader_fills(self, pick, ttl_s):
        if not self.held:
            return
        key, tags, version, generations = self.held.pop(pick % len(self.held))
        self.serial += 1
        value, put_at = str(self.serial).encode(), time.monotonic()
        self.runner.run(self.backend.cache.put(key, value, tags=tags, version=version, ttl_s=ttl_s))
        if generations == self.generation(tags):
            self.stored[key] = Stored(value, tags, generations, self.now + ttl_s, put_at)

    @rule(tags=st.sets(st.sampled_from(["t", "u"])))
    def writer_commits(self, tags):
        self.runner.run(self.backend.cache.invalidate(sorted(tags)))
        for tag in tags:
            self.generations[tag] += 1

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def time_passes(self, seconds):
        self.runner.run(self.backend.advance(seconds))
        self.now += seconds

    @rule()
    def versions_are_lost(self):
        self.runner.run(self.backend.forget_versions())
        for tag in self.generations:
            self.generations[tag] += 1

    @invariant()
    def nothing_outdated_is_returned(self):
        if hasattr(self, "backend"):
            for key, entry in self.stored.items():
                self.get(key, entry.tags)

    def teardown(self):
        if hasattr(self, "backend"):
            self.runner.run(self.stack.__aexit__(None, None, None))
            self.runner.close()


def test_any_interleaving_of_readers_writers_and_time_keeps_the_promises(open_backend):
    machine = type("Machine", (CacheMachine,), {"open_backend": staticmethod(open_backend)})
    settings = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(machine, settings=settings)
