from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from chatflow.adapters.redis.address import parse
from chatflow.adapters.redis.cache import RedisCache, RedisLeases
from chatflow.adapters.redis.client import RedisClients
from chatflow.adapters.redis.commands import RedisCommands, channel_of
from chatflow.adapters.redis.commit_feed import RedisCommitFeed
from chatflow.adapters.redis.fleet import RedisFleet
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.ports.clock import Clock


@attrs.frozen(eq=False)
class RedisServices:
    """What one process has of one Redis; they share its connections and its circuit."""

    cache: RedisCache
    leases: RedisLeases
    feed: RedisCommitFeed
    fleet: RedisFleet
    breaker: CircuitBreaker


@asynccontextmanager
async def open_redis(
    url: str,
    *,
    clock: Clock,
    timeout_s: float = 0.1,
    connections: int = 32,
    breaker_failures: int = 5,
    breaker_reset_s: float = 1.0,
) -> AsyncIterator[RedisServices]:
    """Services over a Redis, whether it answers yet or not.

    Args:
        url: see `address`.
        clock: monotonic seconds.
        timeout_s: of any command, all told.
        connections: most at a time, without the listener's.
        breaker_failures: failures in a row that open the circuit.
        breaker_reset_s: from then to the first probe, and between probes.

    Raises:
        ValueError: the URL makes no sense.
    """
    address = parse(url)
    clients = RedisClients(address, connections=connections + 1)  # one for probes
    breaker = CircuitBreaker(clock, failures=breaker_failures, reset_s=breaker_reset_s)
    channel = channel_of(address.database)
    commands = RedisCommands(clients.data, breaker, channel=channel, timeout_s=timeout_s, concurrency=connections)
    try:
        async with commands.recovering():
            yield RedisServices(
                RedisCache(commands),
                RedisLeases(commands),
                RedisCommitFeed(clients, commands),
                RedisFleet(commands),
                breaker,
            )
    finally:
        await clients.close()
