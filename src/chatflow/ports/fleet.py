"""Snapshots that every role reports to the fleet, once a second."""

from collections.abc import Mapping
from typing import Protocol

import attrs


@attrs.frozen
class RoleSnapshot:
    """One process of one role at one moment.

    Attributes:
        role: ``gateway``, ``processor`` or ``api``.
        instance: unique per process start.
        at_us: wall clock of the snapshot, microseconds since the epoch.
        counters: monotonic counts since start; the fleet's value is the sum over its instances.
        gauges: present values; the fleet's value is the sum over its instances.
        states: words, such as ``circuitBreaker: CLOSED``.
    """

    role: str
    instance: str
    at_us: int
    counters: Mapping[str, int] = attrs.field(factory=dict)
    gauges: Mapping[str, float] = attrs.field(factory=dict)
    states: Mapping[str, str] = attrs.field(factory=dict)


class Fleet(Protocol):
    """The latest snapshot of each living process. Both methods raise ``CacheUnavailable``."""

    async def report(self, snapshot: RoleSnapshot) -> None:
        """Replace the instance's earlier snapshot."""

    async def snapshots(self) -> list[RoleSnapshot]:
        """Of every instance that reported within the last few seconds; the dead age out."""
