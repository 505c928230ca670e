"""Processes over one Redis: what each of them holds, and how a test waits for them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from chatflow.adapters.redis.services import RedisServices, open_redis
from chatflow.ports.cache import Lookup
from chatflow.ports.commit_feed import Commit
from chatflow.ports.errors import CacheUnavailable
from chatflow.ports.messages import StoredMessage
from tests.harness.lifecycle import opened
from tests.harness.waiting import eventually

PATIENCE_S = 20.0
SLACK_S = 5.0
"""What a busy machine may add to a deadline."""
TIMEOUT_S = 0.25
RESET_S = 0.3


@attrs.define
class Listener:
    """Everything that a process heard: tags, and messages."""

    heard: list[list[str] | None] = attrs.field(factory=list)
    stored: list[StoredMessage] = attrs.field(factory=list)

    def __call__(self, commit: Commit | None) -> None:
        self.heard.append(None if commit is None else list(commit.tags))
        self.stored += () if commit is None else commit.stored


@asynccontextmanager
async def process(url: str, **numbers: float) -> AsyncIterator[RedisServices]:
    """One process that does not listen."""
    settings = {"timeout_s": TIMEOUT_S, "breaker_reset_s": RESET_S, "clock": time.monotonic} | numbers
    async with opened(open_redis(url, **settings)) as services:
        yield services


@asynccontextmanager
async def listening(services: RedisServices) -> AsyncIterator[Listener]:
    """Follow the feed meanwhile; begun when this yields."""
    listener = Listener()
    task = asyncio.create_task(services.feed.follow(listener))
    try:
        await eventually(services.feed.is_current, "the listener does not subscribe")
        yield listener
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def fill(services: RedisServices, key: str, value: bytes, tags: tuple[str, ...] = ("t",)) -> None:
    version = (await services.cache.get(key, tags)).version
    await services.cache.put(key, value, tags=tags, version=version, ttl_s=300)


async def first_answer(services: RedisServices, key: str, tags: tuple[str, ...] = ("t",)) -> Lookup:
    """What the cache says when it says anything."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await services.cache.get(key, tags)
        except CacheUnavailable:
            assert time.monotonic() < deadline, "the cache does not come back"
            await asyncio.sleep(0.005)


async def all_sent(services: RedisServices) -> None:
    """Wait until no invalidation is pending."""
    await eventually(lambda: services.cache.commands.is_trusted, "an invalidation is still pending")
