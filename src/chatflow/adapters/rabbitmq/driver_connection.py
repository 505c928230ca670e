"""What the adapter needs of a connection to RabbitMQ, whichever parts of the driver it is built on.

`compat.DirectConnection` is the fast one. `public_connection.PublicConnection` keeps the same promises with nothing
but the driver's public interface.
"""

import abc
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import aio_pika
import aiormq
from yarl import URL

from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.frame_cutter import DeliveryHandler
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute
from chatflow.ports.errors import BrokerUnavailable


class PublishChannel(Protocol):
    """One channel to publish over."""

    @property
    def is_closed(self) -> bool:
        """Whether it can publish no more."""

    def publish(self, route: PublishRoute, body: bytes) -> Awaitable[Any] | None:
        """Publish an envelope. Await what it returns, if anything: the server's confirm where the channel has confirms.

        Raises, then or in the awaitable:
            DeliveryError: the queue refused it.
            PublishError: no queue is bound for it.
            ChannelInvalidStateError: the channel is closed.
        """


class DriverConnection(aio_pika.Connection, abc.ABC):
    """An aio-pika connection that says when it is lost, blocked or silent, and that can be ended at once.

    Args:
        on_blocked: called with True at ``connection.blocked`` and with False at ``connection.unblocked``.
    """

    def __init__(self, url: URL, *, on_blocked: Callable[[bool], None], **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self.on_blocked = on_blocked
        self._lost: asyncio.Future[str] = self.loop.create_future()
        self.close_callbacks.add(self._note_loss)

    @property
    def is_open(self) -> bool:
        """Whether the socket is still good, as far as is known."""
        return self.connected.is_set()

    def lost(self) -> "asyncio.Future[str]":
        """A future for each caller; it ends with the connection, and says why that ended."""
        return asyncio.shield(self._lost)

    @property
    @abc.abstractmethod
    def is_blocked(self) -> bool:
        """Whether the server has stopped reading what is published here."""

    @abc.abstractmethod
    def silent_s(self) -> float:
        """Seconds since the server last gave a sign of life."""

    async def open_channel(self, *, confirms: bool = False) -> aiormq.Channel:
        """A channel of aiormq, which does not build objects around each envelope."""
        return await underlying(await self._initialized(confirms=confirms))

    @abc.abstractmethod
    async def open_publisher(self, *, confirms: bool) -> PublishChannel:
        """A channel to publish over."""

    @abc.abstractmethod
    async def consume(
        self,
        channel: aiormq.Channel,
        queue: str,
        handler: DeliveryHandler,
        on_gap: Callable[[str], None],
        *,
        no_ack: bool = False,
    ) -> None:
        """Start the only consumer of a channel.

        Args:
            channel: from `open_channel`.
            queue: which must exist.
            no_ack: deliveries count as acked.
            handler: called with each delivery, in order.
            on_gap: called with the reason when a delivery is missing from what ``handler`` gets.
        """

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until the socket has room for more."""

    @abc.abstractmethod
    def abort(self) -> None:
        """End the connection at once, as the death of the server would."""

    async def shut(self, grace_s: float) -> None:
        """Close with the server's consent, or without it after ``grace_s``; never fails.

        The driver's own close is not cancelled: it would go on waiting for a socket that nobody ends any more.
        """
        closing = asyncio.ensure_future(self._let_close())
        try:
            await asyncio.wait([closing], timeout=grace_s)
        finally:
            self.abort()
            await asyncio.wait([closing], timeout=grace_s)

    async def _initialized(self, *, confirms: bool) -> aio_pika.abc.AbstractChannel:
        channel = self.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await channel.initialize()
        return channel

    async def _let_close(self) -> None:
        with contextlib.suppress(BrokerUnavailable), translated("close"):
            await self.close()

    def _note_loss(self, _: object, reason: BaseException | None) -> None:
        if not self._lost.done():
            self._lost.set_result("cancelled" if isinstance(reason, asyncio.CancelledError) else repr(reason))


async def underlying(channel: aio_pika.abc.AbstractChannel) -> aiormq.Channel:
    """The aiormq channel of an aio-pika channel."""
    return cast("aiormq.Channel", await channel.get_underlay_channel())
