"""The versioned cache and its leases.

Memory is bounded: every key expires, values have a size limit, and the server should have one of its own (``maxmemory``
with an ``allkeys`` policy; a version evicted early costs a miss).
"""

import itertools
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.adapters.redis.client import SLOT
from chatflow.adapters.redis.commands import EVERYTHING, RedisCommands, tag_key
from chatflow.adapters.redis.scripts import GET, PUT, RELEASE
from chatflow.ports.cache import Cache, Lease, Leases, Lookup, Version

VERSION_TTL_S = 3600.0
"""The least lifetime of a version; longer than that of the values stored under it."""
MS = 1000


@attrs.define(eq=False)
class RedisCache:
    """See the port for the promises.

    An invalidation that failed is repeated as soon as Redis can be reached. Until then other processes may get the
    outdated values, for as long as those live there. What is pending when a process dies is lost: see
    ``Persister.void_cache``.

    Attributes:
        limit_value_bytes: larger values are not stored.
    """

    commands: RedisCommands
    limit_value_bytes: int = attrs.field(default=2**20, kw_only=True, validator=attrs.validators.ge(1))
    _nobody_has: str = attrs.field(init=False, factory=lambda: secrets.token_hex(12))
    _numbers: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    async def get(self, key: str, tags: Sequence[str]) -> Lookup:
        """See the port."""
        self.commands.check_trust()
        stamp = f"{self._nobody_has}.{next(self._numbers)}"
        found = await self.commands.run(GET, _keys(key, tags), stamp, int(VERSION_TTL_S * MS))
        self.commands.check_trust()
        version = Version((found[0].decode(),))
        if len(found) == 1:
            return Lookup(None, version)
        return Lookup(found[1], version, max(found[2], 0) / MS)

    async def put(self, key: str, value: bytes, *, tags: Sequence[str], version: Version, ttl_s: float) -> None:
        """See the port; a value that nobody would accept is not stored at all."""
        self.commands.check_trust()
        ttl_ms = int(ttl_s * MS)
        if ttl_ms <= 0 or len(value) > self.limit_value_bytes:
            return
        version_ttl_ms = max(int(VERSION_TTL_S * MS), 2 * ttl_ms)
        stamps = " ".join(version.stamps)
        await self.commands.run(PUT, _keys(key, tags), stamps, value, ttl_ms, version_ttl_ms)

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        """See the port; a failed invalidation is repeated until it succeeds."""
        await self.commands.invalidate(tags)

    def is_available(self) -> bool:
        """See the port. False while the circuit is open: then everything is pending."""
        return self.commands.is_trusted

    async def ping(self) -> None:
        """See the port."""
        await self.commands.command("EXISTS", EVERYTHING)


@attrs.define(eq=False)
class RedisLeases:
    """See the port."""

    commands: RedisCommands

    async def acquire(self, key: str, *, ttl_s: float) -> Lease | None:
        """See the port."""
        lease = Lease(key, secrets.token_hex(12))
        words = ("SET", _lease_key(key), lease.token, "NX", "PX", max(1, int(ttl_s * MS)))
        return lease if await self.commands.command(*words) else None

    async def release(self, lease: Lease) -> None:
        """See the port."""
        await self.commands.run(RELEASE, [_lease_key(lease.key)], lease.token)


def _keys(key: str, tags: Sequence[str]) -> list[str]:
    return [f"{SLOT}:value:{key}", EVERYTHING, *map(tag_key, tags)]


def _lease_key(key: str) -> str:
    return f"{SLOT}:lease:{key}"


if TYPE_CHECKING:
    _cache: type[Cache] = RedisCache
    _leases: type[Leases] = RedisLeases
