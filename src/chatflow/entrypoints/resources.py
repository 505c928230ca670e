"""What processes share besides database and broker: cached answers, leases, invalidations, the fleet's metrics."""

import time
from collections.abc import AsyncIterator

import attrs

from chatflow.adapters.aiohttp.encoding import JsonAnswers
from chatflow.adapters.memory.cache import MemoryCache
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.adapters.memory.invalidations import MemoryInvalidations
from chatflow.adapters.memory.leases import MemoryLeases
from chatflow.adapters.redis.services import RedisServices, open_redis
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import NearCache
from chatflow.domain.reading.room_tails import RoomTails
from chatflow.entrypoints.settings import ApiSettings


@attrs.frozen(eq=False)
class MemoryServices:
    """What a process has that shares with nobody."""

    cache: MemoryCache
    leases: MemoryLeases
    invalidations: MemoryInvalidations
    fleet: MemoryFleet


SharedServices = MemoryServices | RedisServices


async def open_shared(settings: ApiSettings) -> AsyncIterator[SharedServices]:
    """What the cache URL names. A Redis that does not answer is not waited for: everything does without it."""
    url = settings.common.cache_url
    if url.startswith("memory:"):
        invalidations = MemoryInvalidations()
        cache = MemoryCache(
            time.monotonic,
            limit_entries=settings.cache_entries,
            limit_bytes=settings.cache_bytes,
            told=invalidations.tell,
        )
        yield MemoryServices(cache, MemoryLeases(time.monotonic), invalidations, MemoryFleet(time.monotonic))
        return
    async with open_redis(url, clock=time.monotonic) as services:
        yield services


def near_cache_of(shared: SharedServices, settings: ApiSettings, policy: CachePolicy) -> NearCache:
    """L1 of this process; a quarter of its bytes at most is for the newest messages of rooms."""
    tails_bytes = settings.cache_bytes // 4
    local = MemoryCache(
        time.monotonic, limit_entries=settings.cache_entries, limit_bytes=settings.cache_bytes - tails_bytes
    )
    tails = RoomTails(
        JsonAnswers(),
        time.monotonic,
        fresh_s=policy.rule(Family.ROOM_NEWEST).l1_ttl_s,
        tag_of=policy.room_tag,
        limit_bytes=tails_bytes,
    )
    return NearCache(local, shared.invalidations, tails)
