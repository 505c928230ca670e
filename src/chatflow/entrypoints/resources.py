"""Whatever is opened at start and closed at the end: database, broker, and what the cache URL names.

Each function is an async generator that yields once between opening and closing, for a container's ``Resource``.
"""

import time
from collections.abc import AsyncIterator

import attrs

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed, MemoryLeases
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.adapters.rabbitmq import broker as rabbitmq
from chatflow.adapters.rabbitmq.broker import RabbitBroker
from chatflow.adapters.redis.services import RedisServices, open_redis
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.opening import open_database
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.entrypoints.roles.waiting import until_ready
from chatflow.entrypoints.settings import ApiSettings, Common

AnyBroker = MemoryBroker | RabbitBroker


async def open_store(common: Common, writer_pool: int) -> AsyncIterator[Database]:
    """The database that the URL names."""
    database = open_database(
        common.database_url,
        writer_pool=writer_pool,
        reader_pool=common.reader_pool,
        read_queue_limit=common.reader_queue,
        read_deadline_s=common.read_deadline_s,
        write_deadline_s=common.write_deadline_s,
        driver_fallback=common.driver_fallback,
    )
    yield database
    await database.close()


async def open_broker(common: Common, confirm_timeout_s: float, breaker: CircuitBreaker) -> AsyncIterator[AnyBroker]:
    """The broker that the URL names, once it answers. After an outage it has ``breaker`` probe at once."""
    broker: AnyBroker
    if common.broker_url.startswith("memory:"):
        broker = MemoryBroker(
            partitions=common.partitions, limit_bytes=common.broker_limit_bytes, confirm_timeout_s=confirm_timeout_s
        )
    else:
        broker = rabbitmq.open_broker(
            common.broker_urls,
            partitions=common.partitions,
            queue_limit_bytes=common.broker_limit_bytes,
            confirm_timeout_s=confirm_timeout_s,
            on_up=breaker.probe_now,
            driver_fallback=common.driver_fallback,
        )
    await until_ready("broker", broker.open)
    yield broker
    await broker.close()


@attrs.frozen(eq=False)
class MemoryServices:
    """The cache and its companions inside one process."""

    cache: MemoryCache
    leases: MemoryLeases
    feed: MemoryCommitFeed
    fleet: MemoryFleet


SharedServices = MemoryServices | RedisServices


async def open_shared(settings: ApiSettings) -> AsyncIterator[SharedServices]:
    """What the cache URL names. Nobody waits for Redis: every role works without it."""
    url = settings.common.cache_url
    if url.startswith("memory:"):
        cache = MemoryCache(time.monotonic, limit_entries=settings.cache_entries, limit_bytes=settings.cache_bytes)
        yield MemoryServices(cache, MemoryLeases(time.monotonic), MemoryCommitFeed(cache), MemoryFleet(time.monotonic))
        return
    common = settings.common
    async with open_redis(
        url,
        clock=time.monotonic,
        breaker_failures=common.breaker_failures,
        breaker_reset_s=common.breaker_reset_s,
        driver_fallback=common.driver_fallback,
    ) as services:
        yield services
