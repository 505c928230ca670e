"""One partition's consumer, on a channel of its own: closing it returns what is unacked to the queue."""

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

import aiormq
import aiormq.abc
import attrs
import structlog

from chatflow.adapters.rabbitmq.codec import Undecodable, decode_messages, partition_in
from chatflow.adapters.rabbitmq.driver_connection import DriverConnection
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.frame_cutter import RawDelivery
from chatflow.adapters.rabbitmq.topology import ingest_queue
from chatflow.domain.resilience.tasks import end
from chatflow.ports.broker import Consumer, Delivery, Envelope
from chatflow.ports.errors import BrokerUnavailable

CLOSE_GRACE_S = 2.0
DEPTH_INTERVAL_S = 1.0
ACK_DELAY_S = 0.02
CLOSED = "it was closed"

log = structlog.get_logger()


def until_acks_leave_s(now: float) -> float:
    """Seconds to the next tick at which the acks of all consumers leave together."""
    return ACK_DELAY_S - now % ACK_DELAY_S


async def close_channel(channel: aiormq.Channel) -> None:
    """Close a channel, or leave it to the end of its connection; never fails."""
    try:
        with translated("close"):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await channel.close()
    except BrokerUnavailable as exc:
        log.debug("broker.channel_not_closed", error=str(exc))


@attrs.define(eq=False)
class DeliveryStream:
    """Deliveries that have arrived and were not taken yet, until the channel or its consumer ends."""

    channel: aiormq.Channel
    arrived: deque[RawDelivery] = attrs.field(factory=deque, init=False)
    total: int = attrs.field(default=0, init=False)
    broken: str | None = attrs.field(default=None, init=False)
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.channel.closing.add_done_callback(lambda _: self.end("the channel was closed"))
        self.channel.on_consumer_cancel_callbacks.add(lambda _: self.end("the queue was deleted or has moved"))

    async def open(self, connection: DriverConnection, queue: str, *, no_ack: bool = False) -> None:
        """Start consuming, once per stream; raises what the driver raises."""
        await connection.consume(self.channel, queue, self.put, self.end, no_ack=no_ack)

    def put(self, message: RawDelivery) -> None:
        """Append a delivery; called in order, as soon as its bytes have arrived."""
        self.total += 1
        self.arrived.append(message)
        self._changed.set()

    def end(self, reason: str) -> None:
        """Stop handing out deliveries; the server redelivers those that are held."""
        if self.broken is None:
            self.broken = reason
            self.arrived.clear()
            self._changed.set()

    async def first(self) -> RawDelivery:
        """Wait for the oldest delivery and leave it in place.

        Raises:
            BrokerUnavailable: the stream has ended.
        """
        while True:
            self.check()
            if self.arrived:
                return self.arrived[0]
            await self.change()

    async def change(self) -> None:
        """Wait for a delivery or the end of the stream."""
        self._changed.clear()
        await self._changed.wait()

    def check(self) -> None:
        """Raise BrokerUnavailable if the stream has ended."""
        if self.broken is not None:
            raise BrokerUnavailable(f"the consumer has ended: {self.broken}")


@attrs.define(eq=False)
class QueueDepth:
    """How many envelopes wait in a queue: asked in the background, on demand, at most once a second."""

    stream: DeliveryStream
    queue: str
    _ready: int = attrs.field(default=0, init=False)
    _total: int = attrs.field(default=0, init=False)
    _asked_at: float = attrs.field(default=float("-inf"), init=False)
    _asking: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def envelopes(self) -> int:
        """The last count less what has arrived since, plus what has arrived and was not taken."""
        loop = asyncio.get_running_loop()
        if self._asking is None and loop.time() - self._asked_at >= DEPTH_INTERVAL_S:
            self._asked_at = loop.time()
            self._asking = loop.create_task(self._ask(), name=f"depth-{self.queue}")
        return max(0, self._ready - (self.stream.total - self._total)) + len(self.stream.arrived)

    async def aclose(self) -> None:
        """Stop asking."""
        if (asking := self._asking) is not None:
            await asyncio.wait([asking], timeout=CLOSE_GRACE_S)
            await end([asking])

    async def _ask(self) -> None:
        total = self.stream.total  # the answer may count what arrives while it is on its way
        try:
            with translated("count"):
                answer = await self.stream.channel.queue_declare(self.queue, passive=True)
            self._ready, self._total = answer.message_count or 0, total
        except BrokerUnavailable:
            self._ready = 0  # the stream ends with the channel and says so
        finally:
            self._asking = None


@attrs.define(eq=False)
class RabbitConsumer:
    """Reads one partition while it is the queue's active consumer.

    It lives and dies with its channel: a delivery is acked on the channel that brought it, or not at all. A delivery
    that is no envelope of ours is dead-lettered and logged, and the stream goes on.

    An ack costs the server as much as an envelope, and covers all earlier ones. So acks are collected: until
    `ack_after` envelopes wait for theirs, and never longer than `ACK_DELAY_S`.
    """

    partition: int
    stream: DeliveryStream
    depth: QueueDepth
    ack_after: int
    _acked: int = attrs.field(default=0, init=False)
    _owed: int = attrs.field(default=0, init=False)
    _acking: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _messages: int = attrs.field(default=0, init=False)
    _envelopes: int = attrs.field(default=0, init=False)

    async def receive(self) -> Delivery:
        """See `Consumer.receive`."""
        while True:
            message = await self.stream.first()
            try:
                delivery = self._delivery(message)
            except Undecodable as exc:
                await self._reject(message, str(exc))  # if cancelled, nothing was sent and the message stays first
                continue
            self.stream.arrived.popleft()
            return delivery

    def waiting(self) -> int:
        """See `Consumer.waiting`: envelopes counted up to a second ago, times the average messages in one."""
        envelopes = self.depth.envelopes()
        return envelopes * self._messages // self._envelopes if self._envelopes else 0

    async def ack(self, up_to: Delivery) -> None:
        """See `Consumer.ack`."""
        self.stream.check()
        self._owed = max(self._owed, up_to.tag)
        if self._owed - self._acked >= self.ack_after:
            await self._send_ack()
        elif self._owed > self._acked and self._acking is None:
            self._acking = asyncio.create_task(self._ack_late(), name=f"ack-{self.partition}")

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self._acking is not None:
            await end([self._acking])
        with contextlib.suppress(BrokerUnavailable):
            await self._send_ack()
        self.stream.end(CLOSED)
        await self.depth.aclose()
        await close_channel(self.stream.channel)

    async def _ack_late(self) -> None:
        try:
            await asyncio.sleep(until_acks_leave_s(asyncio.get_running_loop().time()))
            await self._send_ack()
        except BrokerUnavailable as exc:
            log.debug("broker.ack_lost", partition=self.partition, error=str(exc))
        finally:
            self._acking = None

    async def _send_ack(self) -> None:
        if self._owed <= self._acked or self.stream.broken is not None:
            return  # acking twice makes the server close the channel
        self._acked = owed = self._owed
        with translated("ack"):
            await self.stream.channel.basic_ack(owed, multiple=True, wait=False)

    def _delivery(self, message: RawDelivery) -> Delivery:
        if partition_in(message.routing_key) != self.partition:
            raise Undecodable(f"routed as {message.routing_key!r}")
        messages = decode_messages(message.body, message.headers)
        self._messages += len(messages)
        self._envelopes += 1
        envelope = Envelope(self.partition, messages, len(message.body))
        return Delivery(envelope, message.tag, message.redelivered)

    async def _reject(self, message: RawDelivery, reason: str) -> None:
        with translated("reject"):
            await self.stream.channel.basic_reject(message.tag, requeue=False, wait=False)
        self.stream.arrived.popleft()
        log.error("broker.envelope_rejected", partition=self.partition, reason=reason, bytes=len(message.body))


async def open_consumer(connection: DriverConnection, partition: int, *, prefetch: int) -> RabbitConsumer:
    """Open a consumer of one partition; raises what the driver raises."""
    channel = await connection.open_channel()
    try:
        stream = DeliveryStream(channel)
        await channel.basic_qos(prefetch_count=prefetch)
        await stream.open(connection, ingest_queue(partition))
    except BaseException:
        await close_channel(channel)
        raise
    return RabbitConsumer(partition, stream, QueueDepth(stream, ingest_queue(partition)), max(1, prefetch // 4))


if TYPE_CHECKING:
    _consumer: type[Consumer] = RabbitConsumer
