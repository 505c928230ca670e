"""L1: answers kept in the process that gives them, for as long as it hears of every commit.

Coherent like the shared cache: a value is kept under the version that its tags had before the source was asked, and
hearing of an invalidation ends that version. While something may go unheard nothing is taken from here, and what is
here is dropped before that changes. Each value also has a lifetime, which bounds whatever is left.
"""

from collections.abc import Sequence

import attrs

from chatflow.ports.cache import Invalidations, LocalCache, Lookup, Version


@attrs.define(eq=False)
class NearCache:
    """A local cache that listens."""

    local: LocalCache
    invalidations: Invalidations

    async def follow(self) -> None:
        """Listen until cancelled; without it the cache is off."""
        await self.invalidations.follow(self.local.forget)

    def find(self, key: str, tags: Sequence[str]) -> Lookup | None:
        """The value, or the version to keep a fresh one under; ``None`` while the cache is off."""
        if not self.invalidations.is_current():
            return None
        return self.local.find(key, tags)

    def keep(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """Keep what was read after ``find`` gave ``version``; not at all if that has ended.

        What comes while the cache is off is dropped before it is on again.
        """
        self.local.keep(key, value, tags=tags, version=version, ttl_s=ttl_s)
