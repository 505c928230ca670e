"""Wait for servers that are not ready yet: they may start in any order."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from chatflow.domain.resilience.backoff import Backoff
from chatflow.ports.errors import ChatflowError

BACKOFF = Backoff(first_s=0.1, last_s=1.0)
SAY_EVERY_S = 3.0

log = structlog.get_logger()


async def until_ready(what: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """Try until it succeeds, with backoff; log every few seconds what is missing.

    Args:
        what: the server, as the log names it.
        attempt: raises a retryable error while the server is not ready.

    Raises:
        ChatflowError: one that no retry cures.
    """
    failures, said_at = 0, -SAY_EVERY_S
    while True:
        try:
            await attempt()
            return
        except ChatflowError as exc:
            if not exc.retryable:
                raise
            if time.monotonic() - said_at >= SAY_EVERY_S:
                said_at = time.monotonic()
                log.warning("process.waiting", waits_for=what, reason=str(exc))
        failures += 1
        await asyncio.sleep(BACKOFF.jittered_s(failures, random.random()))
