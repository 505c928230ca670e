"""L1 hears of commits, is off while it may not, and never keeps what was read before one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatflow.adapters.memory.cache import MemoryCache
from chatflow.adapters.memory.invalidations import MemoryInvalidations
from chatflow.domain.near_cache import NearCache
from tests.reading_fakes import FakeClock

TAGS = ("room:5",)


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
    made = NearCache(MemoryCache(FakeClock()), ears)
    following = asyncio.create_task(made.follow())
    await asyncio.sleep(0)
    yield made
    following.cancel()


def keep(near: NearCache, value: bytes, version) -> None:
    near.keep("page", value, tags=TAGS, version=version, ttl_s=1.0)


async def test_what_was_kept_is_found_until_its_tag_is_invalidated(near: NearCache, ears: Ears) -> None:
    keep(near, b"old", near.find("page", TAGS).version)
    assert near.find("page", TAGS).value == b"old"
    ears.tell(["room:6"])
    assert near.find("page", TAGS).value == b"old"
    ears.tell(["room:5"])
    assert near.find("page", TAGS).value is None


async def test_a_value_read_before_a_commit_is_not_kept_after_it(near: NearCache, ears: Ears) -> None:
    before = near.find("page", TAGS).version
    ears.tell(["room:5"])
    keep(near, b"old", before)
    assert near.find("page", TAGS).value is None


async def test_it_is_off_until_somebody_follows(ears: Ears) -> None:
    assert NearCache(MemoryCache(FakeClock()), ears).find("page", TAGS) is None


async def test_while_something_may_go_unheard_nothing_is_found_or_kept(near: NearCache, ears: Ears) -> None:
    version = near.find("page", TAGS).version
    keep(near, b"old", version)
    ears.deaf = True
    assert near.find("page", TAGS) is None
    keep(near, b"older", version)
    ears.tell(None)
    ears.deaf = False
    assert near.find("page", TAGS).value is None


async def test_a_value_has_its_time(ears: Ears) -> None:
    clock = FakeClock()
    near = NearCache(MemoryCache(clock), ears)
    following = asyncio.create_task(near.follow())
    await asyncio.sleep(0)
    keep(near, b"old", near.find("page", TAGS).version)
    clock.advance(1.0)
    assert near.find("page", TAGS).value is None
    following.cancel()


async def test_who_stops_following_hears_no_more(near: NearCache, ears: Ears) -> None:
    deaf = NearCache(MemoryCache(FakeClock()), ears)
    following = asyncio.create_task(deaf.follow())
    await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert len(ears._listeners) == 1
