"""Waiting for a condition instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 30.0
"""Longer than anything takes on a busy machine: only a test that fails waits for it."""
_TURNS = 100
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


async def eventually(
    condition: Callable[[], object], what: str = "the condition", *, patience_s: float = PATIENCE_S
) -> Any:
    """Poll until the condition, a function or a coroutine function, holds; the true value that it gave.

    A synchronous condition is first looked at once per turn of the loop, which costs a unit test no time. Pauses then
    grow, so that a condition that costs a request does not load the system under test.

    Raises:
        TimeoutError: it did not hold within ``patience_s``; the message starts with ``what``.
    """
    deadline = time.monotonic() + patience_s
    pause_s, turns = _FIRST_PAUSE_S, _TURNS
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found, turns = await found, 0
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {patience_s} s")
        if turns:
            turns -= 1
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LONGEST_PAUSE_S)
