"""Whether a role's store answers, however many wait for it, is told soon."""

import asyncio
import itertools

import pytest

from chatflow.entrypoints.roles.health_checks import answers, cache_word
from chatflow.ports.errors import CacheUnavailable, QueryTimeout, StoreOverloaded, StoreUnavailable

FULL = StoreOverloaded("220 reads are running or waiting")


def store(*outcomes: Exception | None):
    """Answers or fails as it is told, the last way for good."""
    told = itertools.chain(outcomes, itertools.repeat(outcomes[-1]))

    async def ask() -> None:
        if (outcome := next(told)) is not None:
            raise outcome

    return ask


async def test_a_store_that_answers_is_up():
    assert await answers(store(None))


async def test_a_full_waiting_line_does_not_take_a_process_out_of_service():
    assert await answers(store(FULL, FULL, FULL, None))


async def test_a_waiting_line_that_stays_full_does():
    assert not await answers(store(FULL), deadline_s=0.03)


async def test_a_store_that_says_nothing_is_down_after_the_deadline():
    async with asyncio.timeout(10):
        assert not await answers(asyncio.Event().wait, deadline_s=0.03)


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), QueryTimeout("late")], ids=["gone", "late"])
async def test_a_store_that_fails_is_down_at_once(failure):
    assert not await answers(store(failure, None))
    assert not await answers(store(FULL, failure, None))


class Cache:
    """Answers a ping, or fails as it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    async def ping(self) -> None:
        if self._failure is not None:
            raise self._failure


async def test_a_cache_has_a_word_whether_it_answers_or_is_there_at_all():
    words = [await cache_word(cache) for cache in (Cache(), Cache(CacheUnavailable("gone")), None)]
    assert words == ["up", "down", "off"]
