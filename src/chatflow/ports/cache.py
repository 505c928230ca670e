"""An optional, shared, versioned cache.

Promises of every adapter:

* A value is returned only while every tag it was stored under still has the version it was stored with. A tag whose
  version was lost is a miss, never a match.
* Once a tag has been invalidated, by ``invalidate`` or by a commit on the `CommitFeed`, no value stored under an older
  version of it is ever returned again.
* Entries and bytes are bounded; what does not fit is evicted or not kept.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs


@attrs.frozen
class Version:
    """An opaque stamp of a tag set, taken before the value's source was read."""

    stamps: tuple[str, ...]


@attrs.frozen
class Lookup:
    """The result of a lookup.

    Attributes:
        value: the bytes, ``None`` on a miss.
        version: the tags' present version; store a fresh value under this one.
        age_s: seconds since the value was stored, 0.0 on a miss.
    """

    value: bytes | None
    version: Version
    age_s: float = 0.0


class Cache(Protocol):
    """Bytes by key, invalidated by tag. All methods that wait raise ``CacheUnavailable``."""

    async def get(self, key: str, tags: Sequence[str]) -> Lookup:
        """The value and the version of its tags in one round trip."""

    async def put(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """Store under the version that ``get`` returned before the source was read; not at all if that is outdated."""

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        """Raise the version of these tags; cheap in the number of distinct tags. ``None``: of every tag.

        Followers of the `CommitFeed` hear the tags.
        """

    def is_available(self) -> bool:
        """Whether it works, as far as is known."""

    async def ping(self) -> None:
        """Answer when the cache has a chance to."""


@attrs.frozen
class Lease:
    """The right to renew the value under ``key``; ``token`` tells its holder from later ones."""

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
