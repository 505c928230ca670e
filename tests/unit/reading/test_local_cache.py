"""L1 hears of commits, is off while it may not, and never keeps what was read before one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.memory.invalidations import MemoryInvalidations
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import NearCache
from chatflow.domain.reading.queries import Question
from chatflow.domain.reading.room_tails import NewestPage
from chatflow.ports.cache import Invalidation
from tests.harness.clock import FakeClock
from tests.reading_fakes import ListStore, near_cache


async def nothing() -> bytes:
    raise AssertionError("not asked")


PAGE = Question("room", "page", Family.ROOM_NEWEST, ("room:5",), nothing)


class Ears(MemoryInvalidations):
    """May be deaf for a while, as a listener that has lost its connection."""

    deaf = False

    def is_current(self):
        return super().is_current() and not self.deaf


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def near(ears: Ears) -> AsyncIterator[NearCache]:
    made = near_cache(FakeClock(), ears)
    following = asyncio.create_task(made.follow())
    await asyncio.sleep(0)
    yield made
    following.cancel()


def keep(near: NearCache, value: bytes, version) -> None:
    near.keep(PAGE, value, version=version, ttl_s=1.0)


async def test_what_was_kept_is_found_until_its_tag_is_invalidated(near: NearCache, ears: Ears) -> None:
    keep(near, b"old", near.find(PAGE).version)
    assert near.find(PAGE).value == b"old"
    ears.tell(Invalidation(("room:6",)))
    assert near.find(PAGE).value == b"old"
    ears.tell(Invalidation(("room:5",)))
    assert near.find(PAGE).value is None


async def test_a_value_read_before_a_commit_is_not_kept_after_it(near: NearCache, ears: Ears) -> None:
    before = near.find(PAGE).version
    ears.tell(Invalidation(("room:5",)))
    keep(near, b"old", before)
    assert near.find(PAGE).value is None


async def test_it_is_off_until_somebody_follows(ears: Ears) -> None:
    assert near_cache(FakeClock(), ears).find(PAGE) is None


async def test_while_something_may_go_unheard_nothing_is_found_or_kept(near: NearCache, ears: Ears) -> None:
    version = near.find(PAGE).version
    keep(near, b"old", version)
    ears.deaf = True
    assert near.find(PAGE) is None
    keep(near, b"older", version)
    ears.tell(None)
    ears.deaf = False
    assert near.find(PAGE).value is None


async def test_a_value_has_its_time(ears: Ears) -> None:
    clock = FakeClock()
    near = near_cache(clock, ears)
    following = asyncio.create_task(near.follow())
    await asyncio.sleep(0)
    keep(near, b"old", near.find(PAGE).version)
    clock.advance(1.0)
    assert near.find(PAGE).value is None
    following.cancel()


async def test_who_stops_following_hears_no_more(near: NearCache, ears: Ears) -> None:
    deaf = near_cache(FakeClock(), ears)
    following = asyncio.create_task(deaf.follow())
    await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert len(ears._listeners) == 1


async def test_a_commit_that_tells_its_messages_leaves_the_newest_page_at_hand(near: NearCache, ears: Ears) -> None:
    store, policy = ListStore(), CachePolicy()
    newest = NewestPage("5", "room:5", 2)
    question = Question("room", "newest", Family.ROOM_NEWEST, ("room:5",), nothing, newest=newest)
    store.add("5")
    assert near.find(question).value is None
    await near.tails.read(store, newest)
    for text in ("one", "two", "three"):
        ears.tell(policy.invalidation([store.add("5", text=text)]))
        assert text.encode() in near.find(question).value
    assert near.local.find("newest", ("room:5",)).value == near.find(question).value
    ears.deaf = True
    assert near.find(question) is None
    ears.tell(None)
    ears.deaf = False
    assert near.find(question).value is None
