"""The local cache follows the commit feed, is off while it may miss commits, and keeps nothing read before one."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.query import Query, Reading
from chatflow.domain.reading.query_service import QueryService
from chatflow.ports.commit_feed import Commit
from tests.harness.clock import FakeClock
from tests.reading_fakes import ListStore, body, local_tier, query_service


class Feed(MemoryCommitFeed):
    """May be deaf for a while, as a follower that has lost its connection."""

    deaf = False

    def is_current(self):
        return super().is_current() and not self.deaf


class World:
    """One process with a local cache alone."""

    def __init__(self) -> None:
        self.clock, self.store = FakeClock(), ListStore()
        self.cache = MemoryCache(self.clock)
        self.feed = Feed(self.cache)
        self.tier = local_tier(self.clock, self.feed)
        self.queries: QueryService = query_service(self.store, clock=self.clock, local=self.tier, shared=None)
        self.answers = ["old"]
        self.following: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        self.following = asyncio.create_task(self.tier.follow())
        await asyncio.sleep(0)

    async def read(self) -> Reading:
        text = self.answers.pop()
        await self.store.gate.wait()
        return Reading(text.encode())

    @property
    def query(self) -> Query:
        return Query("room", "page", Family.ROOM_NEWEST, ("room:5",), self.read)

    def at_hand(self, query: Query | None = None) -> bytes | None:
        found = self.queries.answer_locally(query or self.query)
        return None if found is None else body(found)

    async def keep(self) -> None:
        await self.queries.answer(self.query)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.follow()
    yield made
    made.following.cancel()


async def test_what_was_kept_is_found_until_its_tag_is_invalidated(world: World) -> None:
    await world.keep()
    assert world.at_hand() == b"old"
    await world.feed.publish(Commit(("room:6",)))
    assert world.at_hand() == b"old"
    await world.feed.publish(Commit(("room:5",)))
    assert world.at_hand() is None


async def test_a_value_read_before_a_commit_is_not_kept_after_it(world: World) -> None:
    world.store.gate.clear()
    reading = asyncio.create_task(world.keep())
    await asyncio.sleep(0.01)
    await world.feed.publish(Commit(("room:5",)))
    world.store.gate.set()
    await reading
    assert world.at_hand() is None


async def test_it_is_off_until_somebody_follows() -> None:
    world = World()
    await world.keep()
    assert world.at_hand() is None


async def test_while_commits_may_be_missed_nothing_is_found_or_kept(world: World) -> None:
    world.answers = ["older", "old"]
    await world.keep()
    world.feed.deaf = True
    assert world.at_hand() is None
    await world.keep()
    world.cache.commit(None)
    world.feed.deaf = False
    assert world.at_hand() is None


async def test_a_value_has_its_time(world: World) -> None:
    await world.keep()
    world.clock.advance(1.0)
    assert world.at_hand() is None


async def test_who_stops_following_hears_no_more(world: World) -> None:
    other = asyncio.create_task(local_tier(FakeClock(), world.feed).follow())
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert len(world.cache.followers) == 1


async def test_a_commit_that_brings_its_messages_leaves_the_newest_page_at_hand(world: World) -> None:
    policy, query = CachePolicy(), world.queries.room("5", limit=2)
    world.store.add("5")
    assert world.at_hand(query) is None
    await world.queries.answer(query)
    for text in ("one", "two", "three"):
        await world.feed.publish(policy.commit_of([world.store.add("5", text=text)]))
        assert text.encode() in world.at_hand(query)
        newest = msgspec.json.decode(world.at_hand(query))["messages"][0]
        assert newest["message"]["text"] == text
    assert world.store.calls["room_page"] == 1
    assert world.tier.answers.find(query.key, query.tags).value is not None
    world.feed.deaf = True
    assert world.at_hand(query) is None
    world.cache.commit(None)
    world.feed.deaf = False
    assert world.at_hand(query) is None
