"""One byte budget for everything that a gateway's connections hold: unsent answers, held replies, unread frames.

Each connection has limits of its own, but many connections at their limits exceed what a process has. Over the budget
the gateway stops reading from the largest holder. If that does not help within a second, it closes that one with
1013, then the next.
"""

from typing import Protocol

import attrs

from chatflow.domain.session.metrics import SessionMetrics
from chatflow.ports.clock import Clock

SMALL_BYTES = 16 * 2**10
"""A connection that holds less is not counted, so that polite ones cost nothing here."""

GRACE_S = 1.0
FAR_OVER = 1.25
RESUME = 0.75


class Holder(Protocol):
    """A connection, as the budget sees it."""

    def hold(self) -> None:
        """Read nothing more, until `release`."""

    def release(self) -> None:
        """Read on."""

    def overrun(self, held_bytes: int) -> None:
        """Close: pausing it did not bring the total down."""


@attrs.define(eq=False)
class MemoryBudget:
    """Who holds how much. `note` is called whenever that may have grown, `review` about once a second."""

    limit_bytes: int
    metrics: SessionMetrics
    clock: Clock
    total_bytes: int = attrs.field(default=0, init=False)
    _held: dict[Holder, int] = attrs.field(factory=dict, init=False)
    _paused: dict[Holder, float] = attrs.field(factory=dict, init=False)

    def note(self, holder: Holder, size: int) -> None:
        """Record what it holds now, in bytes."""
        if size < SMALL_BYTES:
            size = 0
        self.total_bytes += size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        self.review()

    def forget(self, holder: Holder) -> None:
        """It is closing or has gone: count it no longer."""
        self._paused.pop(holder, None)
        self.total_bytes -= self._held.pop(holder, 0)

    def review(self) -> None:
        """Pause or close the largest holder; resume everybody once there is room."""
        if self.total_bytes > self.limit_bytes:
            self._relieve()
        if self._paused and self.total_bytes < self.limit_bytes * RESUME:
            paused, self._paused = self._paused, {}
            for holder in paused:
                holder.release()

    def _relieve(self) -> None:
        largest = max(self._held, key=self._held.__getitem__)
        paused_at = self._paused.get(largest)
        if paused_at is None:
            self._pause(largest)
        elif self.total_bytes > self.limit_bytes * FAR_OVER or self.clock() - paused_at >= GRACE_S:
            self._close(largest)
        elif unpaused := self._held.keys() - self._paused.keys():
            self._pause(max(unpaused, key=self._held.__getitem__))

    def _pause(self, holder: Holder) -> None:
        self._paused[holder] = self.clock()
        self.metrics.memory_holders_paused += 1
        holder.hold()

    def _close(self, holder: Holder) -> None:
        held_bytes = self._held[holder]
        self.forget(holder)
        self.metrics.memory_holders_dropped += 1
        holder.overrun(held_bytes)
