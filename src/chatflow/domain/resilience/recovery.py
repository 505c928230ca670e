"""A dependency that is back should not have to wait for the end of an open circuit's reset."""

import asyncio
from collections.abc import Awaitable, Callable

from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.ports.errors import ChatflowError


async def watch_for_recovery(
    breaker: CircuitBreaker,
    ping: Callable[[], Awaitable[None]],
    *,
    interval_s: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """While the circuit refuses callers, ping once in ``interval_s``; an answer lets the next caller probe at once.

    The probe is still a real call: a dependency that answers pings and nothing else keeps its circuit open. Runs until
    cancelled.
    """
    while True:
        await sleep(interval_s)
        if breaker.retry_in_s() == 0.0:
            continue
        try:
            await ping()
        except ChatflowError:
            continue
        breaker.probe_now()
