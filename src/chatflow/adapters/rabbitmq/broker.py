"""The broker on RabbitMQ, over two connections: one publishes, one consumes.

A server under pressure stops reading from connections that publish; a consumer on the same one could no longer ack.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from aio_pika.exceptions import ChannelNotFoundEntity

from chatflow.adapters.rabbitmq.compat import connection_class
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.consumer import RabbitConsumer, open_consumer
from chatflow.adapters.rabbitmq.dead_letters import RabbitDeadLetterQueue
from chatflow.adapters.rabbitmq.driver_connection import DriverConnection
from chatflow.adapters.rabbitmq.errors import quiet_driver, translated
from chatflow.adapters.rabbitmq.live_channel import RabbitLiveChannel
from chatflow.adapters.rabbitmq.publisher import ConfirmDeadlines, ConfirmedPublisher, PublisherPool
from chatflow.adapters.rabbitmq.topology import Topology, TopologyRestorer
from chatflow.ports.broker import CONFIRM_TIMEOUT_S, Broker, Envelope
from chatflow.ports.errors import BrokerUnavailable


@attrs.define(eq=False)
class RabbitBroker:
    """See `Broker`. Between `open` and `close` it reopens lost connections.

    Unacked deliveries do not count towards a queue's byte limit, so a partition holds at most its limit plus the
    prefetched envelopes. RabbitMQ enforces the limit with a delay: a few envelopes may exceed it.
    """

    topology: Topology
    publishing: ReconnectingConnection
    consuming: ReconnectingConnection
    publisher: ConfirmedPublisher
    live: RabbitLiveChannel

    async def open(self) -> None:
        """Connect, check what exists, and declare what is missing.

        Raises:
            BrokerUnavailable: the server does not answer yet; try again.
            BrokerMisconfigured: what exists differs, or the server refuses us; nothing was declared.
        """
        await self.publishing.start()
        try:
            await self.consuming.start()
        except BaseException:
            await self.publishing.close()
            raise

    async def close(self) -> None:
        """Close both connections; every call raises BrokerUnavailable from then on. Idempotent."""
        await self.consuming.close()
        await self.publishing.close()

    async def publish(self, envelope: Envelope) -> None:
        """See `Broker.publish`."""
        await self.publisher.publish(envelope)

    async def consume(self, partition: int, *, prefetch: int) -> RabbitConsumer:
        """See `Broker.consume`."""
        connection = self.consuming.connection()
        with translated("consume"):
            async with asyncio.timeout(self.publisher.deadlines.timeout_s):
                try:
                    return await open_consumer(connection, partition, prefetch=prefetch)
                except ChannelNotFoundEntity:  # the queue was deleted
                    await self.publisher.restore(connection)
                    raise

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        if not self.publishing.is_up:
            raise BrokerUnavailable("no connection that takes publishes")

    @property
    def open_channels(self) -> int:
        """See `Broker.open_channels`."""
        return self.publisher.pool.open_channels if self.publishing.is_up else 0

    def dead(self) -> RabbitDeadLetterQueue:
        """A reader of the dead letter queue; close it."""
        return RabbitDeadLetterQueue(self.consuming)


def open_broker(
    urls: Sequence[str],
    *,
    partitions: int,
    queue_limit_bytes: int,
    confirm_timeout_s: float = CONFIRM_TIMEOUT_S,
    channels: int = 4,
    inflight: int = 64,
    delivery_limit: int = 100,
    heartbeat_s: int = 4,
    connect_timeout_s: float = 5.0,
    on_up: Callable[[], None] = lambda: None,
    driver_fallback: bool = False,
) -> RabbitBroker:
    """A broker that is not open yet.

    Args:
        urls: ``amqp://`` or ``amqps://``, one for each node of the cluster.
        partitions: the same in every role of this virtual host.
        queue_limit_bytes: bytes that wait in one partition's queue before publishes are refused.
        confirm_timeout_s: for a publish, and for opening a consumer or a subscription.
        channels: that the partitions share for publishing.
        inflight: envelopes that may wait for their confirms at a time.
        delivery_limit: deliveries of an envelope before it is dead-lettered.
        connect_timeout_s: for one node, including the checks.
        on_up: called when the server accepts publishes again after an outage.
        driver_fallback: use only the driver's public interface, as after a failed self-check.
        heartbeat_s: without a sign of life publishes are refused after 1.125 of it, and the connection ends after 1.5.
    """
    quiet_driver()
    topology = Topology(partitions, queue_limit_bytes, delivery_limit)
    deadlines = ConfirmDeadlines(confirm_timeout_s)
    confirmed, transient = PublisherPool(min(channels, partitions), confirms=True), PublisherPool(1, confirms=False)

    async def prepare(connection: DriverConnection) -> None:
        await topology.establish(connection)
        await confirmed.fill(connection)
        await transient.fill(connection)

    connected = functools.partial(
        ReconnectingConnection,
        urls=tuple(urls),
        heartbeat_s=heartbeat_s,
        connect_timeout_s=connect_timeout_s,
        connection_class=connection_class(forced_fallback=driver_fallback),
    )
    publishing = connected("publisher", prepare=prepare, on_up=on_up, on_outage=deadlines.end_all)
    consuming = connected("consumer")
    restore = TopologyRestorer(topology)
    return RabbitBroker(
        topology,
        publishing,
        consuming,
        ConfirmedPublisher(publishing, confirmed, deadlines, restore, inflight=inflight),
        RabbitLiveChannel(publishing, consuming, transient, deadlines, restore),
    )


if TYPE_CHECKING:
    _broker: type[Broker] = RabbitBroker
