"""An optional, shared, versioned cache.

Promises of every adapter:

* A value is returned only while every tag it was stored under still has the version it was stored with. A tag whose
  version was lost is a miss, never a match.
* After ``invalidate`` returns, no value stored under an older version of its tags is ever returned again.
* Entries and bytes are bounded; what does not fit is evicted or not kept.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from chatflow.ports.messages import StoredMessage


@attrs.frozen
class Version:
    """An opaque stamp of a tag set, taken before the value's source was read."""

    stamps: tuple[str, ...]


@attrs.frozen
class Lookup:
    """The answer to a read.

    Attributes:
        value: the bytes, ``None`` on a miss.
        version: the tags' present version; store a fresh value under this one.
        age_s: seconds since the value was stored, 0.0 on a miss.
    """

    value: bytes | None
    version: Version
    age_s: float = 0.0


@attrs.frozen
class Invalidation:
    """What a commit touched.

    Attributes:
        tags: whose version ended.
        stored: messages of the commit, in the order of their ``seq``; of a room either all or none.
    """

    tags: tuple[str, ...]
    stored: tuple[StoredMessage, ...] = ()


class Cache(Protocol):
    """Bytes by key, invalidated by tag. All that wait raise ``CacheUnavailable``."""

    async def get(self, key: str, tags: Sequence[str]) -> Lookup:
        """The value and the version of its tags in one round trip."""

    async def put(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """Store under the version that ``get`` returned before the source was read; not at all if that is outdated."""

    async def invalidate(self, tags: Sequence[str] | None, stored: Sequence[StoredMessage] = ()) -> None:
        """Raise the version of these tags; cheap in the number of distinct tags.

        Args:
            tags: what a commit touched; ``None``: whatever is kept.
            stored: told to who listens; see `Invalidation`.
        """

    def is_available(self) -> bool:
        """Whether it works, as far as is known."""

    async def ping(self) -> None:
        """Answer when the cache has a chance to."""


@attrs.frozen
class Lease:
    """The right to renew what is kept under ``key``; ``token`` tells the holder from later ones."""

    key: str
    token: str


class Leases(Protocol):
    """At most one holder per key over all processes, while the cache lives. Both methods raise ``CacheUnavailable``.

    A lease is lost when its time is over or the cache forgets it: it saves work, it guards nothing.
    """

    async def acquire(self, key: str, *, ttl_s: float) -> Lease | None:
        """The lease for that long, or ``None`` while somebody has it."""

    async def release(self, lease: Lease) -> None:
        """Give it back early; whoever holds the key by now keeps it."""


class LocalCache(Protocol):
    """A `Cache` in this process, which answers without waiting and hears of commits from elsewhere.

    ``len`` is the number of its entries.
    """

    @property
    def evictions(self) -> int:
        """Entries that had to make room, since start."""

    def __len__(self) -> int: ...

    def find(self, key: str, tags: Sequence[str]) -> Lookup:
        """See ``Cache.get``."""

    def keep(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """See ``Cache.put``."""

    def forget(self, tags: Sequence[str] | None) -> None:
        """See ``Cache.invalidate``."""


class Invalidations(Protocol):
    """What any process invalidates, for values that this process keeps to itself."""

    def is_current(self) -> bool:
        """``False`` while something may be going unheard: nothing that is kept here may be used."""

    async def follow(self, heard: Callable[[Invalidation | None], None]) -> None:
        """Call ``heard`` with each invalidation, in order, until cancelled.

        ``None`` stands for any tag; it comes before ``is_current`` turns true, whatever may have gone unheard.
        """
