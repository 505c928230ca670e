"""The tiers of a read: the local cache, the shared cache, the store.

* **Coherence.** The version of a query's tags is taken before the store is read, and the value is kept under that
  version only: a commit in between makes it a value that no lookup accepts. The local cache is off while the commit
  feed may be missing commits, and dropped before it is on again. Lifetimes bound whatever is left.
* **Cache misses** are coalesced into one read of the store per key and version: in this process by `SingleFlight`, over
  processes by a lease, whose holder's value the others take from the shared cache. A query that comes after a commit
  finds another version and never joins a read that began before it. While no cache can tell the version, an answer may
  be as old as one read takes.
* **The shared cache never fails a query**: without it the store answers, for a limited number of reads at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.reading.answers import HEAD_BYTES, Tier
from chatflow.domain.reading.cache_policy import CachePolicy, Family, Freshness
from chatflow.domain.reading.local_cache import LocalTier
from chatflow.domain.reading.metrics import ReadingMetrics
from chatflow.domain.reading.query import Query, Reading
from chatflow.domain.resilience.backoff import Backoff
from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.domain.resilience.tasks import end
from chatflow.ports.cache import Cache, Lease, Leases, Lookup
from chatflow.ports.clock import Clock
from chatflow.ports.errors import CacheUnavailable, ChatflowError, StoreOverloaded

LEASE_S = 2.0
"""A lease's longest life, and how long others wait for what its holder reads."""
LOOK = Backoff(first_s=0.005, last_s=0.05)
"""Between two looks for the value that a lease's holder puts."""

UNCACHED_LIMIT = 50
"""The default, of the setting too."""
REFRESHES = 8
"""Most refreshes at a time; beyond that, a later reader refreshes."""


@attrs.define(eq=False)
class ReadCache:
    """Reads through the tiers; close it to stop refreshes under way.

    Attributes:
        local: ``None``: this process keeps nothing.
        shared: ``None``: nothing is shared with other processes.
        leases: over the processes that share the cache; ``None``: each reads for itself.
        uncached_limit: reads at a time while the shared cache is out of reach; the next is ``StoreOverloaded``.
        clock: monotonic seconds.
        draw: a uniform random number in ``[0, 1)``, for early refresh.
        sleep: waits that many seconds.
    """

    local: LocalTier | None = attrs.field(default=None, kw_only=True)
    shared: Cache | None = attrs.field(kw_only=True)
    leases: Leases | None = attrs.field(default=None, kw_only=True)
    policy: CachePolicy = attrs.field(factory=CachePolicy, kw_only=True)
    uncached_limit: int = attrs.field(default=UNCACHED_LIMIT, kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    draw: Callable[[], float] = attrs.field(kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(default=asyncio.sleep, kw_only=True)
    metrics: ReadingMetrics = attrs.field(init=False, factory=ReadingMetrics)
    _flights: SingleFlight[tuple[bytes, Tier]] = attrs.field(init=False, factory=SingleFlight)
    _refreshes: dict[str, asyncio.Task[None]] = attrs.field(init=False, factory=dict)
    _cost_s: dict[Family, float] = attrs.field(init=False, factory=dict)
    _uncached: int = attrs.field(init=False, default=0)

    def peek(self, query: Query) -> bytes | None:
        """The value if the local cache has it; never waits."""
        found = self._find(query)
        if found is None or found.value is None or _head_of(found.value) < query.min_head:
            return None
        return found.value

    async def get(self, query: Query) -> tuple[bytes, Tier]:
        """The value and the tier it came from; raises what ``query.read`` and ``query.catch_up`` raise."""
        found = self._find(query)
        if found is not None and found.value is not None and _head_of(found.value) >= query.min_head:
            return found.value, Tier.LOCAL
        if query.min_head:
            return await self._read_from_head(query, found)
        if found is None:
            return await self._look_up_or_read(query, None)
        flight = (query.key, "local", found.version.stamps)
        return await self._flights.run(flight, lambda: self._look_up_or_read(query, found))

    async def close(self) -> None:
        """Stop every refresh under way."""
        await end(list(self._refreshes.values()))

    def _find(self, query: Query) -> Lookup | None:
        """The local value, or the version to keep a fresh one under; ``None`` while the local cache is off."""
        local = self.local
        if local is None or not local.feed.is_current():
            return None
        found = local.answers.find(query.key, query.tags)
        if found.value is not None or query.at_hand is None or (at_hand := query.at_hand()) is None:
            return found
        reading, ttl_s = at_hand
        value = _pack(reading)
        local.answers.keep(query.key, value, tags=query.tags, version=found.version, ttl_s=ttl_s)
        return Lookup(value, found.version)

    async def _read_from_head(self, query: Query, found: Lookup | None) -> tuple[bytes, Tier]:
        """An answer that was read when the room's head was not below ``min_head``.

        The store is read only after the room has caught up, and no read that began earlier is joined.
        """
        shared = await self._look_up(query)
        value = self._servable(query, found, shared)
        if value is not None and _head_of(value) >= query.min_head:
            return value, Tier.SHARED
        if query.catch_up is not None:
            await query.catch_up()
        return await self._read(query, found, shared)

    async def _look_up_or_read(self, query: Query, found: Lookup | None) -> tuple[bytes, Tier]:
        """The shared cache's value or the store's. ``found``: the local miss, if that has coalesced the callers."""
        shared = await self._look_up(query)
        if (value := self._servable(query, found, shared)) is not None:
            return value, Tier.SHARED
        if found is not None or self.shared is None:
            return await self._read_leased(query, found, shared)
        flight = (query.key, "shared", None if shared is None else shared.version.stamps)
        return await self._flights.run(flight, lambda: self._read_leased(query, None, shared))

    async def _look_up(self, query: Query) -> Lookup | None:
        """What the shared cache has; ``None`` without one, or while it is out of reach."""
        if self.shared is None:
            return None
        try:
            return await self.shared.get(query.key, query.tags)
        except CacheUnavailable:
            self.metrics.cache_errors += 1
            return None

    def _servable(self, query: Query, found: Lookup | None, shared: Lookup | None) -> bytes | None:
        """The shared value, if its age allows; it is then kept locally too."""
        if shared is None or shared.value is None:
            return None
        cost_s = self._cost_s.get(query.family, 0.0)
        freshness = self.policy.freshness(query.family, age_s=shared.age_s, cost_s=cost_s, draw=self.draw())
        if freshness is Freshness.EXPIRED:
            return None
        self._keep_local(query, shared.value, found, age_s=shared.age_s)
        if freshness is Freshness.REFRESH:
            self.metrics.stale += 1
            self._refresh(query, found, shared)
        return shared.value

    def _refresh(self, query: Query, found: Lookup | None, shared: Lookup) -> None:
        """Start one refresh of this key, unless there is one or there are too many others."""
        if query.key in self._refreshes or len(self._refreshes) >= REFRESHES:
            return
        self.metrics.refreshes += 1
        task = asyncio.ensure_future(self._refresh_quietly(query, found, shared))
        self._refreshes[query.key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(query.key))

    async def _refresh_quietly(self, query: Query, found: Lookup | None, shared: Lookup) -> None:
        try:
            await self._read_leased(query, found, shared)
        except ChatflowError:
            return  # the cached value serves until its end; then a reader meets the error

    async def _read_leased(self, query: Query, found: Lookup | None, shared: Lookup | None) -> tuple[bytes, Tier]:
        """Read the store, unless another process is reading it: then wait for what that puts into the shared cache."""
        leases = self.leases
        if leases is None:
            return await self._read(query, found, shared)
        waited_until, looks = self.clock() + LEASE_S, 0
        while shared is not None and self.clock() < waited_until:
            try:
                lease = await leases.acquire(f"{query.key}@{' '.join(shared.version.stamps)}", ttl_s=LEASE_S)
            except CacheUnavailable:
                break
            if lease is not None:
                try:
                    return await self._read(query, found, shared)
                finally:
                    await self._give_back(leases, lease)
            looks += 1
            await self.sleep(LOOK.pause_s(looks))
            shared = await self._look_up(query)
            if shared is not None and shared.value is not None:
                self._keep_local(query, shared.value, found, age_s=shared.age_s)
                return shared.value, Tier.SHARED
        return await self._read(query, found, shared)

    async def _give_back(self, leases: Leases, lease: Lease) -> None:
        try:
            await leases.release(lease)
        except CacheUnavailable:
            self.metrics.cache_errors += 1  # it ends by itself

    async def _read(self, query: Query, found: Lookup | None, shared: Lookup | None) -> tuple[bytes, Tier]:
        """Read the store now, and keep the answer under the versions that the caches gave before."""
        capped = self.shared is not None and shared is None
        if capped and self._uncached >= self.uncached_limit:
            raise StoreOverloaded(f"{self._uncached} reads are under way, and the shared cache is out of reach")
        self._uncached += capped
        started = self.clock()
        try:
            value = _pack(await query.read())
        finally:
            self._uncached -= capped
        self._cost_s[query.family] = self.clock() - started
        await self._keep_shared(query, value, shared)
        self._keep_local(query, value, found, age_s=0.0)
        return value, Tier.MISS

    def _keep_local(self, query: Query, value: bytes, found: Lookup | None, *, age_s: float) -> None:
        """Keep it in this process, for no longer than it may be served at all."""
        if self.local is not None and found is not None:
            rule = self.policy.rule(query.family)
            ttl_s = min(rule.local_ttl_s, rule.shared_ttl_s - age_s)
            self.local.answers.keep(query.key, value, tags=query.tags, version=found.version, ttl_s=ttl_s)

    async def _keep_shared(self, query: Query, value: bytes, shared: Lookup | None) -> None:
        if self.shared is None or shared is None:
            return
        ttl_s = self.policy.rule(query.family).shared_ttl_s
        try:
            await self.shared.put(query.key, value, tags=query.tags, version=shared.version, ttl_s=ttl_s)
        except CacheUnavailable:
            self.metrics.cache_errors += 1


def _pack(reading: Reading) -> bytes:
    return reading.head.to_bytes(HEAD_BYTES, "big") + reading.encoded


def _head_of(value: bytes) -> int:
    return int.from_bytes(value[:HEAD_BYTES], "big")
