"""Use case: publish validated messages, and tell each sender once the broker has confirmed its message.

Promises:

* `Sink.accepted` is called only after the broker confirmed the envelope that carries the message.
* Per partition, envelopes are published one after the other, each sender's messages in offer order, so what one
  sender offers to one room is stored in that order. Senders of much are served behind the others
  (`chatflow.domain.ingest.fairness`). When an envelope is given up, everything that waits behind it in its partition is
  refused with it: a later message is never accepted over an earlier one that its sender still has to repeat.
* Where the confirm comes from the commit, a message that conflicts with a stored one is refused with `Conflict`.
* What waits is bounded in bytes; beyond it `offer` refuses and nothing is kept. Senders are to pause before that, those
  of much first.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.ingest.fairness import LIGHT_RATE, HeavyBudget, HeavyLane, SenderShare
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.pending import Pending, PendingPublishes, Ref, Sink
from chatflow.domain.messages.conflicts import FoundConflicts
from chatflow.domain.messages.errors import Conflict
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.resilience.backoff import Backoff
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.ports.broker import Broker, Envelope
from chatflow.ports.clock import Clock
from chatflow.ports.errors import (
    BrokerError,
    BrokerUnavailable,
    BufferFull,
    ChatflowError,
    CircuitOpen,
    Draining,
    Refusal,
)
from chatflow.ports.messages import Message

RETRY = Backoff(first_s=0.02, last_s=0.2)
PATIENCE_S = 0.8
LIMIT_BYTES = 64 * 2**20
"""The defaults, of the settings too."""
PAUSED_AT, HEAVY_PAUSED_AT = 1 / 2, 1 / 8
"""Parts of the limit at which senders pause, so that nobody has to be refused; heavy ones leave room for the others."""


@attrs.define(eq=False)
class IngestPublisher:
    """Per-partition envelopes with natural batching: the next one fills while the previous one is confirmed.

    Args:
        patience_s: how long a failed publish is retried, with the same ids, before its senders are refused.
        limit_bytes: estimated bytes that may wait for a confirm, over all partitions.
        light_rate: messages a second up to which a sender is served first.
        envelope_messages, envelope_bytes: the most that one envelope carries.
        conflicts: what the commit has found, in one process with it; empty elsewhere.
    """

    broker: Broker
    breaker: CircuitBreaker
    metrics: IngestMetrics
    clock: Clock
    partitions: int = attrs.field(kw_only=True)
    patience_s: float = attrs.field(kw_only=True, default=PATIENCE_S)
    limit_bytes: int = attrs.field(kw_only=True, default=LIMIT_BYTES)
    light_rate: float = attrs.field(kw_only=True, default=LIGHT_RATE)
    envelope_messages: int = attrs.field(kw_only=True, default=1_000)
    envelope_bytes: int = attrs.field(kw_only=True, default=2**20)
    conflicts: FoundConflicts = attrs.field(kw_only=True, factory=FoundConflicts)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    _pending: list[PendingPublishes] = attrs.field(init=False)
    _wake: list[asyncio.Event] = attrs.field(init=False)
    _heavy_lane: HeavyLane = attrs.field(init=False)
    _waiting: dict[int, None] = attrs.field(init=False)
    _pending_bytes: int = attrs.field(default=0, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _idle: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _flowing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _paused_at: int = attrs.field(init=False)
    _heavy_paused_at: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pending = [PendingPublishes() for _ in range(self.partitions)]
        self._wake = [asyncio.Event() for _ in range(self.partitions)]
        self._paused_at = int(self.limit_bytes * PAUSED_AT)
        self._heavy_paused_at = int(self.limit_bytes * HEAVY_PAUSED_AT)
        self._heavy_lane = HeavyLane(HeavyBudget(self.envelope_messages))
        self._waiting = self._heavy_lane.waiting
        self._idle.set()

    @property
    def pending_bytes(self) -> int:
        """Bytes that were offered and are neither confirmed nor refused."""
        return self._pending_bytes

    @property
    def serves_light(self) -> bool:
        """Whether heavy senders are held back for light ones."""
        return self._heavy_lane.is_narrow

    def is_congested(self, share: SenderShare) -> bool:
        """Whether so much waits that this sender is to pause, before anybody has to be refused."""
        return self._pending_bytes >= (self._heavy_paused_at if share.is_heavy else self._paused_at)

    async def uncongested(self, share: SenderShare) -> None:
        """Wait until this sender may go on at full speed."""
        while self.is_congested(share):
            self._flowing.clear()
            await self._flowing.wait()

    def offer(self, message: Message, sink: Sink, ref: Ref) -> None:
        """Take a message; its sink is told the outcome later.

        Raises:
            Draining, CircuitOpen, BufferFull: not taken, and the sink is told nothing.
        """
        if self._draining:
            raise Draining("the gateway is shutting down")
        if self._pending_bytes >= self.limit_bytes:
            raise BufferFull("too many messages wait for the broker")
        retry_in_s = self.breaker.retry_in_s()
        if retry_in_s > 0:
            raise CircuitOpen(retry_in_s=retry_in_s)
        share = sink.share
        share.left -= 1
        if share.left < 0:
            share.judge(self.clock(), self.light_rate)
        partition = partition_of(message.room_id, self.partitions)
        self._pending_bytes += self._pending[partition].add(message, sink, ref)
        if not (self._waiting and share.is_heavy and partition in self._waiting):
            self._wake[partition].set()
        self._idle.clear()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for partition in range(self.partitions):
                tasks.create_task(self._run_partition(partition), name=f"pending-{partition}")

    async def drain(self) -> None:
        """Refuse new messages and wait until all that were taken are settled."""
        self._draining = True
        await self._idle.wait()

    async def _run_partition(self, partition: int) -> None:
        pending, wake = self._pending[partition], self._wake[partition]
        while True:
            await wake.wait()
            if pending:
                await self._flush(partition, pending)
            if not pending:
                wake.clear()

    async def _flush(self, partition: int, pending: PendingPublishes) -> None:
        lane, has_heavy, began = self._heavy_lane, pending.has_heavy, self.clock()
        if not lane.enters(partition, began, pending.light):
            self._wake[partition].clear()
            return
        heavy_messages = lane.budget.allowed(began) if lane.is_narrow else sys.maxsize
        batch, size = pending.take(self.envelope_messages, self.envelope_bytes, heavy_messages)
        if lane.is_narrow and pending.has_heavy:
            self.metrics.heavy_held_back += 1
        try:
            await self._publish(Envelope(partition, tuple([taken[0] for taken in batch]), size))
        except (BrokerError, Refusal) as exc:
            behind, size_behind = pending.take_all()
            self._refuse(batch + behind, exc)
            size += size_behind
        else:
            self._accept(batch)
        if lane.out or lane.waiting or (has_heavy and lane.is_narrow):
            self._leave_lane(partition, began, has_heavy=has_heavy)
        self._settled(size)

    def _leave_lane(self, partition: int, began: float, *, has_heavy: bool) -> None:
        now, lane = self.clock(), self._heavy_lane
        if has_heavy:
            lane.budget.confirmed(now, now - began)
        for waiting in lane.leave(partition, now):
            self._wake[waiting].set()

    async def _publish(self, envelope: Envelope) -> None:
        """Retry until confirmed or until ``patience_s`` has passed."""
        deadline = self.clock() + self.patience_s
        failures = 0
        while True:
            self.breaker.allow()
            started = self.clock()
            try:
                await self.broker.publish(envelope)
            except BrokerError as exc:
                self._publish_failed(exc)
                failures += 1
                pause = RETRY.pause_s(failures)
                if self.clock() + pause >= deadline:
                    raise
            else:
                self.breaker.success()
                self.metrics.confirm_s.observe(self.clock() - started)
                return
            await self.sleep(pause)

    def _publish_failed(self, exc: BrokerError) -> None:
        self.metrics.queue_failures += 1
        if isinstance(exc, BrokerUnavailable):
            self.breaker.failure()
        else:
            self.breaker.success()  # a broker that refuses for lack of room is alive

    def _accept(self, batch: list[Pending]) -> None:
        self.metrics.queue_published += 1
        self.metrics.messages_published += len(batch)
        self.metrics.envelope_messages.observe(len(batch))
        if self.conflicts:
            self._accept_but_conflicts(batch)
            return
        for message, sink, ref in batch:
            sink.accepted(message, ref)

    def _accept_but_conflicts(self, batch: list[Pending]) -> None:
        for message, sink, ref in batch:
            if self.conflicts.take(message):
                sink.refused(message, ref, Conflict())
            else:
                sink.accepted(message, ref)

    def _refuse(self, batch: list[Pending], error: ChatflowError) -> None:
        self.metrics.refused += len(batch)
        for message, sink, ref in batch:
            sink.refused(message, ref, error)

    def _settled(self, size: int) -> None:
        self._pending_bytes -= size
        if self._pending_bytes < self._paused_at:
            self._flowing.set()
        if not self._pending_bytes:
            self._idle.set()
