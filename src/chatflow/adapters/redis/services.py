"""Everything that a process uses of one Redis: cache, leases, commit feed and fleet."""

from typing import TYPE_CHECKING

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
from chatflow.ports.errors import CacheUnavailable


@attrs.frozen(eq=False)
class RedisServices:
    """The services over one Redis; they share connections and a circuit breaker.

    They open whether Redis answers yet or not: every role works without it.
    """

    cache: RedisCache
    leases: RedisLeases
    feed: RedisCommitFeed
    fleet: RedisFleet
    breaker: CircuitBreaker
    commands: RedisCommands
    clients: RedisClients

    async def open(self) -> None:
        """Look for Redis once, and from then on whenever it is lost."""
        await self.commands.open()

    async def close(self) -> None:
        """Send what is pending, if Redis can be reached, and close all connections."""
        await self.commands.close()
        await self.clients.close()

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        if not self.commands.is_open:
            raise CacheUnavailable("the cache is closed")
        await self.cache.ping()


def open_redis(
    url: str,
    *,
    clock: Clock,
    timeout_s: float = 0.1,
    connections: int = 32,
    breaker_failures: int = FAILURES,
    breaker_reset_s: float = RESET_S,
    driver_fallback: bool = False,
) -> RedisServices:
    """Services that are not open yet.

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
    return RedisServices(
        RedisCache(commands),
        RedisLeases(commands),
        RedisCommitFeed(clients, commands),
        RedisFleet(commands),
        breaker,
        commands,
        clients,
    )


if TYPE_CHECKING:
    from chatflow.ports.lifecycle import Lifecycle

    _: type[Lifecycle] = RedisServices
