"""Use case: publish validated messages, and tell each sender once the broker has confirmed its message.

Promises:

* `Sink.accepted` is called only after the broker confirmed the envelope that carries the message.
* Per partition, envelopes are published one after the other in offer order, so what one sender offers to one room
  is stored in that order. When an envelope is given up, everything that waits behind it in its partition is
  refused with it: a later message is never accepted over an earlier one that its sender still has to repeat.
* What waits is bounded in bytes; beyond it `offer` refuses and nothing is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.pending import Pending, PendingPublishes, Ref, Sink
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


@attrs.define(eq=False)
class IngestPublisher:
    """Per-partition envelopes with natural batching: the next one fills while the previous one is confirmed.

    Args:
        patience_s: how long a failed publish is retried, with the same ids, before its senders are refused.
        limit_bytes: estimated bytes that may wait for a confirm, over all partitions.
        envelope_messages, envelope_bytes: the most that one envelope carries.
    """

    broker: Broker
    breaker: CircuitBreaker
    metrics: IngestMetrics
    clock: Clock
    partitions: int = attrs.field(kw_only=True)
    patience_s: float = attrs.field(kw_only=True, default=PATIENCE_S)
    limit_bytes: int = attrs.field(kw_only=True, default=LIMIT_BYTES)
    envelope_messages: int = attrs.field(kw_only=True, default=1_000)
    envelope_bytes: int = attrs.field(kw_only=True, default=2**20)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    _pending: list[PendingPublishes] = attrs.field(init=False)
    _wake: list[asyncio.Event] = attrs.field(init=False)
    _pending_bytes: int = attrs.field(default=0, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _idle: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _flowing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._pending = [PendingPublishes() for _ in range(self.partitions)]
        self._wake = [asyncio.Event() for _ in range(self.partitions)]
        self._idle.set()
        self._flowing.set()

    @property
    def pending_bytes(self) -> int:
        """Bytes that were offered and are neither confirmed nor refused."""
        return self._pending_bytes

    @property
    def is_congested(self) -> bool:
        """Whether half of the limit is used: slow senders down before any has to be refused."""
        return self._pending_bytes * 2 >= self.limit_bytes

    async def uncongested(self) -> None:
        """Wait until senders may go on at full speed."""
        while self.is_congested:
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
        partition = partition_of(message.room_id, self.partitions)
        self._pending_bytes += self._pending[partition].add(message, sink, ref)
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
            await self._flush(partition, pending)
            if not pending:
                wake.clear()

    async def _flush(self, partition: int, pending: PendingPublishes) -> None:
        batch, size = pending.take(self.envelope_messages, self.envelope_bytes)
        try:
            await self._publish(Envelope(partition, tuple([taken[0] for taken in batch]), size))
        except (BrokerError, Refusal) as exc:
            behind, size_behind = pending.take_all()
            self._refuse(batch + behind, exc)
            size += size_behind
        else:
            self._accept(batch)
        self._settled(size)

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
        for message, sink, ref in batch:
            sink.accepted(message, ref)

    def _refuse(self, batch: list[Pending], error: ChatflowError) -> None:
        self.metrics.refused += len(batch)
        for message, sink, ref in batch:
            sink.refused(message, ref, error)

    def _settled(self, size: int) -> None:
        self._pending_bytes -= size
        if not self.is_congested:
            self._flowing.set()
        if not self._pending_bytes:
            self._idle.set()
