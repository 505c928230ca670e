"""Wait for a server that is not there yet."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from chatflow.domain.resilience.backoff import Backoff
from chatflow.ports.errors import BrokerUnavailable, StoreUnavailable

BACKOFF = Backoff(first_s=0.1, last_s=1.0)
SAY_EVERY_S = 3.0

log = structlog.get_logger()


async def until_there(what: str, start: Callable[[], Awaitable[None]], *also: type[Exception]) -> None:
    """Try until it works, with growing, jittered pauses; say so every few seconds.

    Args:
        what: named in the log.
        start: raises while it is not there.
        also: exceptions that mean "not yet", besides an unavailable broker or store.
    """
    not_yet: tuple[type[Exception], ...] = (BrokerUnavailable, StoreUnavailable, *also)
    failures, said_at = 0, -SAY_EVERY_S
    while True:
        try:
            await start()
        except not_yet as exc:
            if time.monotonic() - said_at >= SAY_EVERY_S:
                said_at = time.monotonic()
                log.warning("process.waiting", waits_for=what, reason=str(exc))
            failures += 1
            await asyncio.sleep(BACKOFF.jittered_s(failures, random.random()))
        else:
            return
