"""What is opened at start and closed at the end: database, broker, and what the cache URL names."""

import time
from collections.abc import AsyncIterator
from typing import TypeVar

from chatflow.adapters.memory.broker import MemoryBroker
from chatflow.adapters.memory.services import MemoryServices, open_memory
from chatflow.adapters.rabbitmq import broker as rabbitmq
from chatflow.adapters.rabbitmq.broker import RabbitBroker
from chatflow.adapters.redis.services import RedisServices, open_redis
from chatflow.adapters.sql.database import Database
from chatflow.adapters.sql.opening import open_database
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.entrypoints.roles.waiting import until_ready
from chatflow.entrypoints.settings import ApiSettings, Common
from chatflow.ports.lifecycle import Lifecycle

AnyBroker = MemoryBroker | RabbitBroker
SharedServices = MemoryServices | RedisServices
S = TypeVar("S", bound=Lifecycle)


async def ready(what: str, service: S) -> AsyncIterator[S]:
    """The service, once it is ready, and closed afterwards; for a container's ``Resource``.

    Args:
        what: the service, as the log names it.
        service: not open yet.
    """
    try:
        await until_ready(what, service.open)
        yield service
    finally:
        await service.close()


def database_of(common: Common, writer_pool: int) -> Database:
    """The database that the URL names."""
    return open_database(
        common.database_url,
        writer_pool=writer_pool,
        reader_pool=common.reader_pool,
        read_queue_limit=common.reader_queue,
        read_deadline_s=common.read_deadline_s,
        write_deadline_s=common.write_deadline_s,
        driver_fallback=common.driver_fallback,
    )


def broker_of(common: Common, confirm_timeout_s: float, breaker: CircuitBreaker) -> AnyBroker:
    """The broker that the URL names. After an outage it has ``breaker`` probe at once."""
    if common.broker_url.startswith("memory:"):
        return MemoryBroker(
            partitions=common.partitions, limit_bytes=common.broker_limit_bytes, confirm_timeout_s=confirm_timeout_s
        )
    return rabbitmq.open_broker(
        common.broker_urls,
        partitions=common.partitions,
        queue_limit_bytes=common.broker_limit_bytes,
        confirm_timeout_s=confirm_timeout_s,
        on_up=breaker.probe_now,
        driver_fallback=common.driver_fallback,
    )


def shared_of(settings: ApiSettings) -> SharedServices:
    """What the cache URL names. Nobody waits for Redis: every role works without it."""
    common = settings.common
    if common.cache_url.startswith("memory:"):
        return open_memory(time.monotonic, limit_entries=settings.cache_entries, limit_bytes=settings.cache_bytes)
    return open_redis(
        common.cache_url,
        clock=time.monotonic,
        breaker_failures=common.breaker_failures,
        breaker_reset_s=common.breaker_reset_s,
        driver_fallback=common.driver_fallback,
    )
