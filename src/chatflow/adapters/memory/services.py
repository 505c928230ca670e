"""Everything that a process uses of a cache of its own: cache, leases, commit feed and fleet."""

from typing import TYPE_CHECKING

import attrs

from chatflow.adapters.memory.cache import MemoryCache, MemoryCommitFeed, MemoryLeases
from chatflow.adapters.memory.fleet import MemoryFleet
from chatflow.ports.clock import Clock
from chatflow.ports.errors import CacheUnavailable


@attrs.define(eq=False)
class MemoryServices:
    """The services inside one process."""

    cache: MemoryCache
    leases: MemoryLeases
    feed: MemoryCommitFeed
    fleet: MemoryFleet
    _is_open: bool = attrs.field(default=False, init=False)

    async def open(self) -> None:
        """See `Lifecycle.open`."""
        self._is_open = True

    async def close(self) -> None:
        """See `Lifecycle.close`."""
        self._is_open = False

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        if not self._is_open:
            raise CacheUnavailable("the cache is closed")


def open_memory(clock: Clock, *, limit_entries: int, limit_bytes: int) -> MemoryServices:
    """Services that are not open yet; the cache forgets what was used longest ago at either limit."""
    cache = MemoryCache(clock, limit_entries=limit_entries, limit_bytes=limit_bytes)
    return MemoryServices(cache, MemoryLeases(clock), MemoryCommitFeed(cache), MemoryFleet(clock))


if TYPE_CHECKING:
    from chatflow.ports.lifecycle import Lifecycle

    _: type[Lifecycle] = MemoryServices
