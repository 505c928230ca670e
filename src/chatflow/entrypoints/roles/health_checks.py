"""What ``/health`` says of the servers that a role needs, soon: a load balancer does not wait for long."""

import asyncio
from collections.abc import Awaitable, Callable

from chatflow.ports.cache import Cache
from chatflow.ports.errors import CacheUnavailable, StoreError, StoreOverloaded

DEADLINE_S = 3.0
PAUSE_S = 0.01
WORDS = {True: "up", False: "down"}


async def answers(ask: Callable[[], Awaitable[object]], *, deadline_s: float = DEADLINE_S) -> bool:
    """Whether the store answers in time. Behind a full waiting line it may: then the next free place tells."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    await ask()
                except StoreOverloaded:
                    await asyncio.sleep(PAUSE_S)
                else:
                    return True
    except (StoreError, TimeoutError):
        return False


async def cache_word(cache: Cache | None) -> str:
    """``up``, ``down`` or ``off``."""
    if cache is None:
        return "off"
    try:
        await cache.ping()
    except CacheUnavailable:
        return "down"
    return "up"
