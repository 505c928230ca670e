"""The live channel: transient, unconfirmed, to every gateway. It may lose envelopes, but not silently.

A subscription that does not keep up drops what it holds, and its reader gets ``None``. What the server drops from a
subscription's queue while its connection is stuck stays unseen, so readers compare their rooms with the store.
"""

import asyncio
import functools
from typing import TYPE_CHECKING

import aiormq
import attrs
import structlog
from aio_pika.exceptions import ChannelNotFoundEntity

from chatflow.adapters.rabbitmq.codec import (
    CONTENT_TYPE,
    LIVE_SCHEMA,
    SCHEMA_HEADER,
    Undecodable,
    decode_stored,
    encode_stored,
    partition_in,
)
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.consumer import CLOSED, DeliveryStream, close_channel
from chatflow.adapters.rabbitmq.driver_connection import DriverConnection
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.frame_cutter import RawDelivery
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute
from chatflow.adapters.rabbitmq.publisher import ConfirmDeadlines, PublisherPool, Restore
from chatflow.adapters.rabbitmq.topology import LIVE
from chatflow.ports.broker import LiveChannel, LiveEnvelope, LiveSubscription

TRANSIENT = 1

log = structlog.get_logger()


@functools.cache
def live_route(partition: int) -> PublishRoute:
    """The route to every gateway."""
    headers = {SCHEMA_HEADER: LIVE_SCHEMA}
    return PublishRoute(LIVE, str(partition), content_type=CONTENT_TYPE, mode=TRANSIENT, headers=headers)


@attrs.define(eq=False)
class LiveStream(DeliveryStream):
    """Holds at most ``limit`` deliveries; one more empties it."""

    limit: int
    lost: bool = attrs.field(default=False, init=False)

    def put(self, message: RawDelivery) -> None:
        """See `DeliveryStream.put`."""
        if len(self.arrived) >= self.limit:
            self.arrived.clear()
            self.lost = True
        else:
            self.arrived.append(message)
        self._changed.set()

    async def next(self) -> RawDelivery | None:
        """Take the oldest delivery; ``None`` once after a loss.

        Raises:
            BrokerUnavailable: the stream has ended.
        """
        while not self.lost:
            self.check()
            if self.arrived:
                return self.arrived.popleft()
            await self.change()
        self.lost = False
        return None


@attrs.define(eq=False)
class RabbitLiveSubscription:
    """An exclusive queue, which the server deletes with the connection."""

    stream: LiveStream

    async def receive(self) -> LiveEnvelope | None:
        """See `LiveSubscription.receive`."""
        message = await self.stream.next()
        if message is None:
            return None
        try:
            messages = decode_stored(message.body, message.headers)
            return LiveEnvelope(partition_in(message.routing_key), messages)
        except Undecodable as exc:
            log.warning("broker.live_envelope_unreadable", reason=str(exc), bytes=len(message.body))
            return None

    async def close(self) -> None:
        """See `LiveSubscription.close`."""
        self.stream.end(CLOSED)
        await close_channel(self.stream.channel)


@attrs.define(eq=False)
class RabbitLiveChannel:
    """Publishes over the publishing connection, subscribes over the consuming one.

    A subscription opened after another one broke starts with ``None``: what was published in between is lost.
    """

    publishing: ReconnectingConnection
    consuming: ReconnectingConnection
    pool: PublisherPool
    deadlines: ConfirmDeadlines
    restore: Restore
    _streams: list[LiveStream] = attrs.field(factory=list, init=False)

    async def publish_live(self, envelope: LiveEnvelope) -> None:
        """See `LiveChannel.publish_live`; returns once the socket has taken the envelope."""
        connection = self.publishing.ready()
        body = encode_stored(envelope.messages)
        with translated("publish live"):
            await self.deadlines.within(self._publish(envelope.partition, body, connection))

    async def subscribe(self, *, limit: int) -> RabbitLiveSubscription:
        """See `LiveChannel.subscribe`."""
        connection = self.consuming.connection()
        with translated("subscribe"):
            async with asyncio.timeout(self.deadlines.timeout_s):
                try:
                    stream = await self._open(connection, limit)
                except ChannelNotFoundEntity:  # the exchange was deleted
                    await self.restore(connection)
                    raise
                stream.lost = await self._forget_ended()
        self._streams.append(stream)
        return RabbitLiveSubscription(stream)

    async def _publish(self, partition: int, body: bytes, connection: DriverConnection) -> None:
        channel = await self.pool.channel(partition, connection)
        written = channel.publish(live_route(partition), body)
        if written is not None:
            await written
        await connection.drain()

    async def _open(self, connection: DriverConnection, limit: int) -> LiveStream:
        channel = await connection.open_channel()
        try:
            return await self._consume(connection, channel, limit)
        except BaseException:
            await close_channel(channel)
            raise

    async def _consume(self, connection: DriverConnection, channel: aiormq.Channel, limit: int) -> LiveStream:
        declared = await channel.queue_declare(
            exclusive=True, auto_delete=True, arguments={"x-max-length": limit, "x-overflow": "drop-head"}
        )
        queue = declared.queue or ""
        await channel.queue_bind(queue, LIVE, "#")
        stream = LiveStream(channel, limit)
        await stream.open(connection, queue, no_ack=True)
        return stream

    async def _forget_ended(self) -> bool:
        """Forget ended subscriptions; return whether one of them broke."""
        ended = [stream for stream in self._streams if stream.broken is not None]
        self._streams = [stream for stream in self._streams if stream.broken is None]
        for stream in ended:
            await close_channel(stream.channel)
        return any(stream.broken != CLOSED for stream in ended)


if TYPE_CHECKING:
    _live: type[LiveChannel] = RabbitLiveChannel
    _subscription: type[LiveSubscription] = RabbitLiveSubscription
