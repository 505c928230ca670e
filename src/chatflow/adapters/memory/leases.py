"""Leases among the callers of one process."""

import itertools
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.cache import Lease, Leases
from chatflow.ports.clock import Clock


@attrs.define(eq=False)
class MemoryLeases:
    """See the port. Leases whose time is over are forgotten when the next one is asked for.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Clock
    _held: dict[str, tuple[float, str]] = attrs.field(init=False, factory=dict)
    _tokens: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    async def acquire(self, key: str, *, ttl_s: float) -> Lease | None:
        """See the port."""
        now = self.clock()
        self._held = {held: lease for held, lease in self._held.items() if lease[0] > now}
        if key in self._held:
            return None
        lease = Lease(key, str(next(self._tokens)))
        self._held[key] = (now + ttl_s, lease.token)
        return lease

    async def release(self, lease: Lease) -> None:
        """See the port."""
        _, token = self._held.get(lease.key, (0.0, ""))
        if token == lease.token:
            del self._held[lease.key]


if TYPE_CHECKING:
    _: Leases = MemoryLeases(clock=float)
