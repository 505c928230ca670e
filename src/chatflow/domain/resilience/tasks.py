"""End tasks reliably."""

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 5.0
"""Longer than any clean-up should take."""


async def end(tasks: Collection["asyncio.Future[Any]"], *, again_s: float = AGAIN_S) -> None:
    """Cancel tasks and return when they have ended; what they raise is not raised here.

    A cancellation that meets another error within a driver may be lost there, and a task that retries goes on. So one
    that has not ended after ``again_s`` is cancelled again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
    await asyncio.gather(*tasks, return_exceptions=True)
