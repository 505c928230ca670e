"""Remember for a moment who bore which token: requests and reconnects come with the same one again and again."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import attrs

from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.ports.clock import Clock, WallClock
from chatflow.ports.identity import Authenticator, Principal

FRESH_S = 10.0
ENTRIES_MAX = 10_000


@attrs.define(eq=False)
class RecentTokens:
    """An `Authenticator` over another one.

    An answer is kept for ``fresh_s`` seconds, never beyond the token's own end, under the SHA-256 of the token, so that
    no token stays in memory. Refusals are not kept: what failed for a moment may work in the next. Those who bring
    the same token at once share one look at it.
    """

    inner: Authenticator
    clock: Clock
    now_us: WallClock
    fresh_s: float = FRESH_S
    entries_max: int = ENTRIES_MAX
    hits: int = attrs.field(default=0, init=False)
    misses: int = attrs.field(default=0, init=False)
    _kept: OrderedDict[bytes, tuple[float, Principal]] = attrs.field(factory=OrderedDict, init=False)
    _flight: SingleFlight[Principal] = attrs.field(factory=SingleFlight, init=False)

    async def principal(self, token: str) -> Principal:
        """See `Authenticator.principal`."""
        key = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = self._kept.get(key)
        if found is not None and found[0] > self.clock() and found[1].expires_at * 1_000_000 > self.now_us():
            self.hits += 1
            return found[1]
        self.misses += 1
        asked_at = self.clock()
        principal = await self._flight.run(key, lambda: self.inner.principal(token))
        self._kept[key] = asked_at + self.fresh_s, principal
        self._kept.move_to_end(key)
        while len(self._kept) > self.entries_max:
            self._kept.popitem(last=False)
        return principal

    async def open(self) -> None:
        """See `Authenticator.open`."""
        await self.inner.open()

    async def close(self) -> None:
        """See `Authenticator.close`."""
        self._kept.clear()
        await self.inner.close()

    async def ping(self) -> None:
        """See `Authenticator.ping`."""
        await self.inner.ping()

    def counts(self) -> Mapping[str, int]:
        """See `Authenticator.counts`."""
        return {"token_cache_hits": self.hits, "token_cache_misses": self.misses, **self.inner.counts()}
