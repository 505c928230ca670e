"""Confirmed publishing: within the confirm timeout the envelope is confirmed, or the caller gets an error."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import attrs
from aio_pika.exceptions import ChannelNotFoundEntity, PublishError

from chatflow.adapters.rabbitmq.codec import CONTENT_TYPE, INGEST_SCHEMA, SCHEMA_HEADER, encode_messages
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.driver_connection import DriverConnection, PublishChannel
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute
from chatflow.adapters.rabbitmq.topology import INGEST
from chatflow.ports.broker import Envelope

PERSISTENT = 2
Restore = Callable[[DriverConnection], Awaitable[None]]
TOPOLOGY_GONE = (PublishError, ChannelNotFoundEntity)


@functools.cache
def ingest_route(partition: int) -> PublishRoute:
    """The route to a partition's queue."""
    headers = {SCHEMA_HEADER: INGEST_SCHEMA}
    return PublishRoute(
        INGEST, str(partition), content_type=CONTENT_TYPE, mode=PERSISTENT, headers=headers, mandatory=True
    )


@attrs.define(eq=False)
class PublisherPool:
    """Several channels of one connection, because the server handles the publishes of a channel one by one.

    A partition always uses the same channel, so its envelopes arrive in the order of their publishes. A channel that
    the server has closed is reopened by the next publish over it.
    """

    size: int
    confirms: bool
    _channels: list[PublishChannel | None] = attrs.field(init=False)
    _opening: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._channels = [None] * self.size

    @property
    def open_channels(self) -> int:
        """How many are open."""
        return sum(channel is not None and not channel.is_closed for channel in self._channels)

    async def fill(self, connection: DriverConnection) -> None:
        """Open all channels on a new connection."""
        self._channels = [await connection.open_publisher(confirms=self.confirms) for _ in range(self.size)]

    async def channel(self, partition: int, connection: DriverConnection) -> PublishChannel:
        """The partition's channel, reopened if need be."""
        slot = partition % self.size
        channel = self._channels[slot]
        if channel is not None and not channel.is_closed:
            return channel
        async with self._opening:
            channel = self._channels[slot]
            if channel is None or channel.is_closed:
                channel = self._channels[slot] = await connection.open_publisher(confirms=self.confirms)
            return channel


@attrs.define(eq=False)
class ConfirmDeadlines:
    """A deadline for each waiting call; all of them can be ended at once."""

    timeout_s: float
    _running: set[asyncio.Timeout] = attrs.field(factory=set, init=False)

    @contextmanager
    def _known(self, deadline: asyncio.Timeout) -> Iterator[None]:
        self._running.add(deadline)
        try:
            yield
        finally:
            self._running.discard(deadline)

    async def within(self, work: Awaitable[None]) -> None:
        """Await ``work`` for at most the timeout.

        Raises:
            TimeoutError: it took too long, or `end_all` was called.
        """
        async with asyncio.timeout(self.timeout_s) as deadline:
            with self._known(deadline):
                await work

    def end_all(self) -> None:
        """Make every waiting call time out now."""
        now = asyncio.get_running_loop().time()
        for deadline in self._running:
            if not deadline.expired():
                deadline.reschedule(now)


@attrs.define(eq=False)
class ConfirmedPublisher:
    """Publishes ingest envelopes: persistent, mandatory, confirmed.

    Args:
        restore: declares the topology again; called when an envelope found no exchange or no queue.
        inflight: envelopes that may wait for their confirms at a time; others wait their turn.
    """

    connection: ReconnectingConnection
    pool: PublisherPool
    deadlines: ConfirmDeadlines
    restore: Restore
    inflight: int = attrs.field(kw_only=True)
    _turns: asyncio.Semaphore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.inflight)

    async def publish(self, envelope: Envelope) -> None:
        """See `Broker.publish`; the confirm timeout covers the wait for a turn."""
        ready = self.connection.ready()
        body = encode_messages(envelope.messages)
        with translated("publish"):
            try:
                await self.deadlines.within(self._publish(envelope.partition, body))
            except TOPOLOGY_GONE:
                await self.deadlines.within(self.restore(ready))
                raise

    async def _publish(self, partition: int, body: bytes) -> None:
        async with self._turns:
            channel = await self.pool.channel(partition, self.connection.ready())
            confirmed = channel.publish(ingest_route(partition), body)
            if confirmed is not None:
                await confirmed
