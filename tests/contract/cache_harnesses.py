"""Every cache, lease holder and fleet, with what its suite does to it from outside."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import redis.asyncio

from chatflow.adapters.memory.cache import MemoryCache, MemoryLeases
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.adapters.redis import compat
from chatflow.adapters.redis.fleet import RedisFleet
from chatflow.adapters.redis.services import open_redis
from chatflow.ports.cache import Cache, Leases
from chatflow.ports.fleet import Fleet
from tests.harness.clock import FakeClock
from tests.harness.lifecycle import opened

TIMEOUT_S = 30.0
MAX_AGE_S = 60.0
"""A suite about semantics does not stumble over a busy machine."""


@attrs.frozen
class Backend:
    """What is under test.

    Attributes:
        advance: lets seconds pass for it.
        forget_versions: loses every tag's version, as a restart may.
    """

    cache: Cache
    leases: Leases
    fleet: Fleet
    advance: Callable[[float], Awaitable[None]]
    forget_versions: Callable[[], Awaitable[None]]


Open = Callable[[], AbstractAsyncContextManager[Backend]]


@asynccontextmanager
async def memory() -> AsyncIterator[Backend]:
    clock = FakeClock()
    cache = MemoryCache(clock)

    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    async def forget_versions() -> None:
        cache._stamps.clear()

    yield Backend(cache, MemoryLeases(clock), MemoryFleet(clock, max_age_s=MAX_AGE_S), advance, forget_versions)


async def make_older(raw: redis.asyncio.Redis, seconds: float) -> None:
    """Bring the end of every key nearer and every time in it back: what passing time does, without waiting for it."""
    ms = round(seconds * 1000)
    for key in await raw.keys("*"):
        left_ms = await raw.pttl(key)
        assert left_ms >= 0, f"{key!r} would live for ever"
        if left_ms <= ms:
            await raw.delete(key)
            continue
        await raw.pexpire(key, left_ms - ms)
        kind = await raw.type(key)
        if kind == b"zset":
            for member in await raw.zrange(key, 0, -1):
                await raw.zincrby(key, -ms, member)
        elif kind == b"hash" and await raw.hexists(key, "at"):
            await raw.hincrby(key, "at", -ms)


@asynccontextmanager
async def real_redis(url: str) -> AsyncIterator[Backend]:
    async with (
        redis.asyncio.from_url(url) as raw,
        opened(open_redis(url, clock=time.monotonic, timeout_s=TIMEOUT_S)) as services,
    ):
        await raw.flushdb()

        async def advance(seconds: float) -> None:
            await make_older(raw, seconds)

        async def forget_versions() -> None:
            for key in await raw.keys("*:tag:*"):
                await raw.delete(key)

        fleet = RedisFleet(services.commands, max_age_s=MAX_AGE_S)
        yield Backend(services.cache, services.leases, fleet, advance, forget_versions)


def opener(request: pytest.FixtureRequest) -> Open:
    """A function that opens the technology that a fixture's parameter names."""
    if request.param == "memory":
        return memory
    if request.param == FALLBACK:
        request.getfixturevalue("monkeypatch").setattr(compat, "CHECKS", {"a check of this test": lambda: False})
    url = request.getfixturevalue("redis_url")
    return lambda: real_redis(url)


FALLBACK = "redis, self-check failed"
TECHNOLOGIES = ["memory", "redis", FALLBACK]
