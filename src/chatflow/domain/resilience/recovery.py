"""Close a circuit soon after its dependency is back, rather than at the end of the reset."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.ports.errors import ChatflowError


async def watch_for_recovery(
    breakers: Collection[CircuitBreaker],
    ping: Callable[[], Awaitable[None]],
    *,
    interval_s: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """While any circuit refuses callers, ping once in ``interval_s``; an answer lets the next caller of each probe.

    The probe is still a real call: a dependency that answers pings and nothing else keeps its circuits open. Runs until
    cancelled.
    """
    while True:
        await sleep(interval_s)
        if all(breaker.retry_in_s() == 0.0 for breaker in breakers):
            continue
        try:
            await ping()
        except ChatflowError:
            continue
        for breaker in breakers:
            breaker.probe_now()
