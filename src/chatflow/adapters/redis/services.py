"""Opens everything that a process uses of one Redis: cache, leases, commit feed and fleet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from chatflow.adapters.redis.address import parse
from chatflow.adapters.redis.cache import RedisCache, RedisLeases
from chatflow.adapters.redis.client import RedisClients
from chatflow.adapters.redis.commands import RedisCommands, channel_of
from chatflow.adapters.redis.commit_feed import RedisCommitFeed
from chatflow.adapters.redis.compat import connection_options
from chatflow.adapters.redis.fleet import RedisFleet
from chatflow.domain.resilience.circuit_breaker import FAILURES, RESET_S, CircuitBreaker
from chatflow.ports.clock import Clock


@attrs.frozen(eq=False)
class RedisServices:
    """The services over one Redis; they share connections and a circuit breaker."""

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
    breaker_failures: int = FAILURES,
    breaker_reset_s: float = RESET_S,
    driver_fallback: bool = False,
) -> AsyncIterator[RedisServices]:
    """Open the services, whether Redis answers yet or not.

    Args:
        url: see `address`.
        clock: monotonic seconds.
        timeout_s: for a command, connecting included.
        connections: at most so many at a time, the commit feed's not counted.
        breaker_failures: failures in a row that open the circuit.
        breaker_reset_s: from then to the first probe, and between probes; `PROBE_PAUSE_S` if that is shorter.
        driver_fallback: use only documented parts of redis-py, as after a failed self-check.

    Raises:
        ValueError: the URL is invalid; says why.
    """
    address = parse(url)
    options = connection_options(forced_fallback=driver_fallback)
    clients = RedisClients(address, connections=connections + 1, options=options)  # one more, for probes
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
