"""L1: answers kept in the process that gives them, for as long as it hears of every commit.

Coherent like the shared cache: a value is kept under the version that its tags had before the source was asked, and
hearing of an invalidation ends that version. While something may go unheard nothing is taken from here, and what is
here is dropped before that changes. Each value also has a lifetime, which bounds whatever is left.

The newest page of a room need not end with a commit that told its messages: it is put together anew, see `RoomTails`.
"""

import attrs

from chatflow.domain.reading.queries import Question
from chatflow.domain.reading.room_tails import RoomTails
from chatflow.ports.cache import Invalidation, Invalidations, LocalCache, Lookup, Version


@attrs.define(eq=False)
class NearCache:
    """A local cache that listens."""

    local: LocalCache
    invalidations: Invalidations
    tails: RoomTails

    async def follow(self) -> None:
        """Listen until cancelled; without it the cache is off."""
        await self.invalidations.follow(self._hear)

    def find(self, question: Question) -> Lookup | None:
        """The value, or the version to keep a fresh one under; ``None`` while the cache is off."""
        if not self.invalidations.is_current():
            return None
        found = self.local.find(question.key, question.tags)
        if found.value is not None or question.newest is None:
            return found
        page = self.tails.page(question.newest)
        if page is None:
            return found
        value, ttl_s = page
        self.keep(question, value, version=found.version, ttl_s=ttl_s)
        return Lookup(value, found.version)

    def keep(self, question: Question, value: bytes, *, version: Version, ttl_s: float) -> None:
        """Keep what was read after ``find`` gave ``version``; not at all if that has ended.

        What comes while the cache is off is dropped before it is on again.
        """
        self.local.keep(question.key, value, tags=question.tags, version=version, ttl_s=ttl_s)

    def _hear(self, invalidation: Invalidation | None) -> None:
        self.local.forget(None if invalidation is None else invalidation.tags)
        self.tails.hear(invalidation)
