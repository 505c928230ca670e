"""Health checks of the servers that a role needs, within the patience of a load balancer."""

import asyncio
from collections.abc import Awaitable, Callable

from chatflow.ports.cache import Cache
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, StoreError, StoreOverloaded

DEADLINE_S = 3.0
PAUSE_S = 0.01
WORDS = {True: "up", False: "down"}


async def answers(ping: Callable[[], Awaitable[object]], *, deadline_s: float = DEADLINE_S) -> bool:
    """Whether a server answers in time. A full queue of reads says nothing: try again for the next free place."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    await ping()
                except StoreOverloaded:
                    await asyncio.sleep(PAUSE_S)
                else:
                    return True
    except (StoreError, BrokerUnavailable, CacheUnavailable, TimeoutError):
        return False


async def cache_word(cache: Cache | None) -> str:
    """``up``, ``down`` or ``off``."""
    return "off" if cache is None else WORDS[await answers(cache.ping)]
