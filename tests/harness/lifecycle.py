"""Whatever has a lifecycle, open for as long as a test needs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from chatflow.ports.lifecycle import Lifecycle

S = TypeVar("S", bound=Lifecycle)


@asynccontextmanager
async def opened(service: S) -> AsyncIterator[S]:
    try:
        await service.open()
        yield service
    finally:
        await service.close()
