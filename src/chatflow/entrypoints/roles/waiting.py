"""Wait for a server that is not there yet."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from chatflow.ports.errors import BrokerUnavailable, StoreUnavailable

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 1.0
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
    pause, said_at = FIRST_PAUSE_S, -SAY_EVERY_S
    while True:
        try:
            await start()
        except not_yet as exc:
            if time.monotonic() - said_at >= SAY_EVERY_S:
                said_at = time.monotonic()
                log.warning("process.waiting", waits_for=what, reason=str(exc))
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LAST_PAUSE_S)
        else:
            return
