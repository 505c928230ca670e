"""The way past the caches: one read of the store for all who miss the same thing, and its answer kept for the others.

* In this process all who ask for a key under one version share one read (`SingleFlight`). Who asks after a commit
  finds another version and never joins a read that began before it. While no cache can tell the version, an answer
  may be as old as one read takes.
* Over processes a lease does the same: who does not get it looks again until the holder has put the value.
* What was read is kept under the versions that were seen before: a commit in between makes it a value that nobody
  accepts.
* While the shared cache is out of reach the reads at one time are capped; the next is refused.
"""

from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.reading.answers import Source
from chatflow.domain.reading.cache_policy import CachePolicy, Family
from chatflow.domain.reading.local_cache import NearCache
from chatflow.domain.reading.metrics import ReadingMetrics
from chatflow.domain.reading.queries import Question
from chatflow.domain.resilience.backoff import Backoff
from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.ports.cache import Cache, Lease, Leases, Lookup
from chatflow.ports.clock import Clock
from chatflow.ports.errors import CacheUnavailable, StoreOverloaded

LEASE_S = 2.0
"""A lease's longest life, and how long others wait for what its holder reads."""
LOOK = Backoff(first_s=0.005, last_s=0.05)


@attrs.frozen
class Seen:
    """What each cache said before the store was asked; ``None``: it was off or out of reach."""

    near: Lookup | None
    shared: Lookup | None

    @property
    def stamps(self) -> tuple[str, ...] | None:
        """Tells versions apart, where one is known."""
        known = self.shared or self.near
        return None if known is None else known.version.stamps


@attrs.define(eq=False)
class Fetcher:
    """See the module.

    Attributes:
        uncached_limit: reads at one time while the shared cache is out of reach.
    """

    near: NearCache | None
    cache: Cache | None
    leases: Leases | None
    policy: CachePolicy = attrs.field(kw_only=True)
    clock: Clock = attrs.field(kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True)
    uncached_limit: int = attrs.field(kw_only=True)
    cost_s: dict[Family, float] = attrs.field(init=False, factory=dict)
    """What reading took lately."""
    metrics: ReadingMetrics = attrs.field(init=False, factory=ReadingMetrics)
    _flights: SingleFlight[tuple[bytes, Source]] = attrs.field(init=False, factory=SingleFlight)
    _uncached: int = attrs.field(init=False, default=0)

    async def fetch(self, question: Question, seen: Seen) -> tuple[bytes, Source]:
        """A value of the version seen or a later one, and where it came from; see the module."""
        if self.cache is None and self.near is None:
            return await self.read(question, seen), Source.MISS
        return await self._flights.run((question.key, seen.stamps), lambda: self._fetch_for_all(question, seen))

    async def read(self, question: Question, seen: Seen) -> bytes:
        """Ask the store now, and keep the answer."""
        if self.cache is None or seen.shared is not None:
            value = await self._ask(question)
        else:
            value = await self._ask_uncached(question)
        await self._keep_shared(question, value, seen.shared)
        self.keep_near(question, value, seen.near, age_s=0.0)
        return value

    def keep_near(self, question: Question, value: bytes, seen: Lookup | None, *, age_s: float) -> None:
        """Keep it in this process, for no longer than it may be served at all."""
        if self.near is not None and seen is not None:
            rule = self.policy.rule(question.family)
            ttl_s = min(rule.l1_ttl_s, rule.l2_ttl_s - age_s)
            self.near.keep(question, value, version=seen.version, ttl_s=ttl_s)

    async def look_up(self, question: Question) -> Lookup | None:
        """What the shared cache has; ``None`` without one, or while it is out of reach."""
        if self.cache is None:
            return None
        try:
            return await self.cache.get(question.key, question.tags)
        except CacheUnavailable:
            self.metrics.cache_errors += 1
            return None

    async def _fetch_for_all(self, question: Question, seen: Seen) -> tuple[bytes, Source]:
        """Read it, unless another process is at it: then wait for what it puts into the shared cache."""
        leases = self.leases
        if leases is None:
            return await self.read(question, seen), Source.MISS
        waited_until, looks = self.clock() + LEASE_S, 0
        while seen.shared is not None and self.clock() < waited_until:
            key = f"{question.key}@{' '.join(seen.shared.version.stamps)}"
            try:
                lease = await leases.acquire(key, ttl_s=LEASE_S)
            except CacheUnavailable:
                break
            if lease is not None:
                try:
                    return await self.read(question, seen), Source.MISS
                finally:
                    await self._give_back(leases, lease)
            looks += 1
            await self.sleep(LOOK.pause_s(looks))
            seen = attrs.evolve(seen, shared=await self.look_up(question))
            if seen.shared is not None and seen.shared.value is not None:
                self.keep_near(question, seen.shared.value, seen.near, age_s=seen.shared.age_s)
                return seen.shared.value, Source.L2
        return await self.read(question, seen), Source.MISS

    async def _give_back(self, leases: Leases, lease: Lease) -> None:
        try:
            await leases.release(lease)
        except CacheUnavailable:
            self.metrics.cache_errors += 1  # it ends by itself

    async def _ask_uncached(self, question: Question) -> bytes:
        if self._uncached >= self.uncached_limit:
            raise StoreOverloaded(f"{self._uncached} reads are under way, and the shared cache is out of reach")
        self._uncached += 1
        try:
            return await self._ask(question)
        finally:
            self._uncached -= 1

    async def _ask(self, question: Question) -> bytes:
        started = self.clock()
        value = await question.read()
        self.cost_s[question.family] = self.clock() - started
        return value

    async def _keep_shared(self, question: Question, value: bytes, seen: Lookup | None) -> None:
        if self.cache is None or seen is None:
            return
        ttl_s = self.policy.rule(question.family).l2_ttl_s
        try:
            await self.cache.put(question.key, value, tags=question.tags, version=seen.version, ttl_s=ttl_s)
        except CacheUnavailable:
            self.metrics.cache_errors += 1
