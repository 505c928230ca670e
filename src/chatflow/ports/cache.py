"""An optional, shared, versioned cache.

Promises of every adapter:

* A value is returned only while every tag it was stored under still has the version it was stored with. A tag whose
  version was lost is a miss, never a match.
* After ``invalidate`` returns, no value stored under an older version of its tags is ever returned again.
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
    """The answer to a read.

    Attributes:
        value: the bytes, ``None`` on a miss.
        version: the tags' present version; store a fresh value under this one.
        age_s: seconds since the value was stored, 0.0 on a miss.
    """

    value: bytes | None
    version: Version
    age_s: float = 0.0


class Cache(Protocol):
    """Bytes by key, invalidated by tag. All methods raise ``CacheUnavailable``."""

    async def get(self, key: str, tags: Sequence[str]) -> Lookup:
        """The value and the version of its tags in one round trip."""

    async def put(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """Store under the version that ``get`` returned before the source was read."""

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Raise the version of these tags; cheap in the number of distinct tags."""

    async def ping(self) -> None:
        """Answer when the cache has a chance to."""
