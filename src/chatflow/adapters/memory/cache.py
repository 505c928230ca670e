"""The cache, its leases and the commit feed among the callers of one process."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.domain.reading.local_cache import LocalCache
from chatflow.ports.cache import Cache, Lease, Leases, Lookup, Version
from chatflow.ports.clock import Clock
from chatflow.ports.commit_feed import Commit, CommitFeed, Follower


@attrs.define(eq=False)
class MemoryCache(LocalCache):
    """See the port for the promises."""

    followers: list[Follower] = attrs.field(init=False, factory=list)

    async def get(self, key: str, tags: Sequence[str]) -> Lookup:
        """See the port."""
        return self.find(key, tags)

    async def put(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """See the port."""
        self.keep(key, value, tags=tags, version=version, ttl_s=ttl_s)

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        """See the port."""
        self.commit(None if tags is None else Commit(tuple(tags)))

    def commit(self, commit: Commit | None) -> None:
        """Forget what it touched, then tell the followers; ``None``: everything."""
        self.forget(None if commit is None else commit.tags)
        for follower in self.followers:
            follower(commit)

    def is_available(self) -> bool:
        """Memory always is."""
        return True

    async def ping(self) -> None:
        """Memory always answers."""


@attrs.define(eq=False)
class MemoryCommitFeed:
    """See the port; current as long as anybody follows, since no follower can miss a commit."""

    cache: MemoryCache

    async def publish(self, commit: Commit) -> None:
        """See the port."""
        self.cache.commit(commit)

    def is_current(self) -> bool:
        """See the port."""
        return bool(self.cache.followers)

    async def follow(self, follower: Follower) -> None:
        """See the port."""
        follower(None)
        self.cache.followers.append(follower)
        try:
            await asyncio.Event().wait()
        finally:
            self.cache.followers.remove(follower)


@attrs.define(eq=False)
class MemoryLeases:
    """See the port. Expired leases are dropped at the next ``acquire``.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Clock
    _held: dict[str, tuple[float, str]] = attrs.field(init=False, factory=dict)
    _tokens: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    async def acquire(self, key: str, *, ttl_s: float) -> Lease | None:
        """See the port."""
        now = self.clock()
        self._held = {held: lease for held, lease in self._held.items() if lease[0] > now}
        if key in self._held:
            return None
        lease = Lease(key, str(next(self._tokens)))
        self._held[key] = (now + ttl_s, lease.token)
        return lease

    async def release(self, lease: Lease) -> None:
        """See the port."""
        _, token = self._held.get(lease.key, (0.0, ""))
        if token == lease.token:
            del self._held[lease.key]


if TYPE_CHECKING:
    _cache: Cache = MemoryCache(clock=float)
    _feed: CommitFeed = MemoryCommitFeed(MemoryCache(clock=float))
    _leases: Leases = MemoryLeases(clock=float)
