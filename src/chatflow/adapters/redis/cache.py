"""The versioned cache and its leases.

Bounded: every key has a lifetime, a value has a limit, and the server has its own (``maxmemory`` with an ``allkeys``
policy; losing a version early only costs a miss).
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
"""How long a version lives at least; longer than what is stored under it."""
MS = 1000


@attrs.define(eq=False)
class RedisCache:
    """See the port for the promises.

    An invalidation that failed is told to Redis as soon as it can be reached; until then other processes may be
    answered what it was to end, for as long as that lives there. What a process still owes when it dies is lost: see
    ``Persister.void_cache``.

    Attributes:
        limit_value_bytes: a value that passes it is not kept.
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
        """See the port; a value that nobody would accept is not kept at all."""
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
        """See the port; what opens the circuit is owed, too."""
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
