"""Every private or undocumented part of aio-pika and aiormq that the adapter touches; no other module may.

| touched | what for | what breaks | noticed by |
|---|---|---|---|
| `aiormq.Channel`: `delivery_tag`, `confirmations`, `message_id_delivery_tag`, `max_content_size`, `create_future` \
    | publish in one write; the driver fails what is unconfirmed when a channel ends | confirms | check 1 |
| `aio_pika.Connection.kwargs` passed on to `aiormq.Connection(transport_factory=)` \
    | own the socket and its reader | deliveries and confirms | check 2 |
| `asyncio.StreamReader.feed_data` and `feed_eof` | see each byte first | deliveries and confirms | check 3 |
| `aio_pika.Connection.transport.connection`, aiormq's `__connection_unblocked` \
    | hear of `connection.blocked` at once | refusing while blocked | check 4 |
| the bytes of `basic.publish` | no frame objects per envelope | publishing | check 5, test_direct_publisher |
| the bytes of `basic.deliver` | no frame objects per envelope | deliveries | check 6, test_frame_cutter |

`CHECKS` run at start, see `connection_class`: if one fails, the adapter uses `public_connection` and says so once.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import aio_pika
import aiormq
import attrs
import pamqp.frame
import structlog
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError, DeliveryError, InvalidFrameError
from aiormq import spec
from aiormq.exceptions import ConnectionNotAllowed
from pamqp.exceptions import PAMQPException
from yarl import URL

from chatflow.adapters.rabbitmq.driver_connection import DriverConnection, PublishChannel
from chatflow.adapters.rabbitmq.frame_cutter import DeliveryHandler, FrameCutter
from chatflow.adapters.rabbitmq.frame_round_trip import delivers_as_the_driver, publishes_as_the_driver
from chatflow.adapters.rabbitmq.public_connection import PublicConnection
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute
from chatflow.domain.resilience.self_check import failed_checks

FLOW = "_Connection__connection_unblocked"
"""aiormq's event that is set while the server takes publishes; it has no public one."""

log = structlog.get_logger()


@attrs.define(eq=False)
class DirectPublisher:
    """A channel to publish over without the driver's lock, frame objects and writer task.

    The driver keeps the books: the next delivery tag and the futures of the unconfirmed are its own, so it fails them
    when the channel or the connection ends. Acks and nacks come from `FrameCutter`. From the first returned envelope
    on, the driver handles all confirms of that channel: the ack that follows a return must not overtake it.

    Attributes:
        write: to the socket, at once.
    """

    channel: aiormq.Channel
    write: Callable[[bytes], None]

    @property
    def is_closed(self) -> bool:
        """See `PublishChannel.is_closed`."""
        return bool(self.channel.is_closed)

    def publish(self, route: PublishRoute, body: bytes) -> "asyncio.Future[Any] | None":
        """See `PublishChannel.publish`; the envelope is written when this returns."""
        channel = self.channel
        if channel.is_closed:
            raise ChannelInvalidStateError(f"{channel} is closed")
        tag = channel.delivery_tag + 1
        message_id = str(tag)
        self.write(route.frames(channel.number, message_id, body, channel.max_content_size))
        channel.delivery_tag = tag
        if not channel.publisher_confirms:
            return None
        confirmed = channel.create_future()
        channel.confirmations[tag] = confirmed
        channel.message_id_delivery_tag[message_id] = tag
        return confirmed

    def confirm(self, tag: int, *, multiple: bool, acked: bool) -> None:
        """Settle the envelope that the server has confirmed or refused, or all up to it."""
        waiting = self.channel.confirmations
        tags = [each for each in waiting if each <= tag] if multiple else [tag]
        for each in tags:
            self.channel.message_id_delivery_tag.pop(str(each), None)
            confirmed = waiting.pop(each, None)
            if not isinstance(confirmed, asyncio.Future) or confirmed.done():
                continue
            if acked:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(DeliveryError(None, spec.Basic.Nack(delivery_tag=each)))


class _Reader(asyncio.StreamReader):
    """Remembers what the server sent last and when (``time.monotonic``). The driver gets what `FrameCutter` leaves."""

    heard_at: float = 0.0
    heard: bytes = b""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.frames = FrameCutter(super().feed_data)

    def feed_data(self, data: Any) -> None:
        self.heard_at, self.heard = time.monotonic(), data
        self.frames.feed(data, self.heard_at)

    def feed_eof(self) -> None:
        self.frames.end()
        super().feed_eof()


class _Socket(aiormq.TransportFactory):
    """Opens the socket as the driver would, and keeps hold of it."""

    reader: _Reader | None = None
    writer: asyncio.StreamWriter | None = None
    transport: asyncio.Transport | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = kwargs.pop("ssl_context_provider")
        context = await tls.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = _Reader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
            )
        except OSError as exc:
            raise AMQPConnectionError(*exc.args) from exc
        self.reader, self.transport = reader, transport
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self.writer


class _FlowEvent(asyncio.Event):
    """The driver's own event, and a callback when it changes."""

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        super().__init__()
        self._on_change = on_change

    def set(self) -> None:
        was_blocked = not self.is_set()
        super().set()
        if was_blocked:
            self._on_change(False)

    def clear(self) -> None:
        super().clear()
        self._on_change(True)


class DirectConnection(DriverConnection):
    """A connection whose envelopes and confirms pass by the driver."""

    def __init__(self, url: URL, *, on_blocked: Callable[[bool], None], **kwargs: Any) -> None:
        super().__init__(url, on_blocked=on_blocked, **kwargs)
        self._socket = _Socket()
        self._flow = asyncio.Event()
        self.kwargs["transport_factory"] = self._socket

    async def connect(self, timeout: aio_pika.abc.TimeoutType = None) -> None:
        """See `aio_pika.Connection.connect`."""
        try:
            await super().connect(timeout)
        except InvalidFrameError as exc:
            self._raise_refusal(exc)
            raise
        if self.transport is None:
            raise ChannelInvalidStateError("the connection is not open")
        driver = self.transport.connection
        self._flow = _FlowEvent(self.on_blocked)
        if getattr(driver, FLOW).is_set():
            asyncio.Event.set(self._flow)
        setattr(driver, FLOW, self._flow)

    @property
    def is_blocked(self) -> bool:
        """See `DriverConnection.is_blocked`."""
        return not self._flow.is_set()

    def silent_s(self) -> float:
        """See `DriverConnection.silent_s`; any byte is a sign of life."""
        reader = self._socket.reader
        return time.monotonic() - reader.heard_at if reader else 0.0

    async def open_publisher(self, *, confirms: bool) -> PublishChannel:
        """See `DriverConnection.open_publisher`."""
        publisher = DirectPublisher(await self.open_channel(confirms=confirms), self._write)
        if confirms:
            self._frames.on_confirm(publisher.channel.number, publisher.confirm)
        return publisher

    async def consume(
        self,
        channel: aiormq.Channel,
        queue: str,
        handler: DeliveryHandler,
        on_gap: Callable[[str], None],
        *,
        no_ack: bool = False,
    ) -> None:
        """See `DriverConnection.consume`; the driver gets only what could not be read."""

        async def unreadable(_: aiormq.abc.DeliveredMessage) -> None:
            on_gap("a delivery could not be read")

        self._frames.on_delivery(channel.number, handler)
        await channel.basic_consume(queue, unreadable, no_ack=no_ack)

    async def drain(self) -> None:
        """See `DriverConnection.drain`."""
        if self._socket.writer is not None:
            await self._socket.writer.drain()

    def abort(self) -> None:
        """See `DriverConnection.abort`."""
        if self._socket.transport is not None:
            self._socket.transport.abort()

    @property
    def _frames(self) -> FrameCutter:
        if self._socket.reader is None:
            raise ChannelInvalidStateError("the connection is not open")
        return self._socket.reader.frames

    def _write(self, data: bytes) -> None:
        transport = self._socket.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the connection has ended")
        transport.write(data)

    def _raise_refusal(self, error: InvalidFrameError) -> None:
        """The driver drops the reason when the server closes instead of opening a virtual host."""
        try:
            _, _, frame = pamqp.frame.unmarshal(self._socket.reader.heard if self._socket.reader else b"")
        except PAMQPException:
            return
        if isinstance(frame, spec.Connection.Close):
            raise ConnectionNotAllowed(frame.reply_text) from error


def connection_class(*, forced_fallback: bool = False) -> type[DriverConnection]:
    """`DirectConnection` if the driver is as expected, else `PublicConnection` with one warning in the log."""
    if failed := failed_checks(CHECKS, forced=forced_fallback):
        _warn_once(tuple(failed))
        return PublicConnection
    return DirectConnection


@functools.cache
def _warn_once(failed: tuple[str, ...]) -> None:
    """A command may open several connections."""
    log.warning("broker.driver_fallback", failed=list(failed), aiormq=aiormq.connection.__version__)


def _uses(function: Callable[..., Any], *names: str) -> bool:
    return {*names} <= {*function.__code__.co_names}


def _keeps_books() -> bool:
    channel = aiormq.Channel
    books = ("confirmations", "message_id_delivery_tag")
    return (
        _uses(channel.basic_publish, "delivery_tag", "create_future", *books)
        and _uses(channel._on_return_frame, *books)
        and _uses(channel.__init__, "number", "max_content_size", "delivery_tag", *books)
    )


def _takes_our_socket() -> bool:
    return (
        _uses(aio_pika.Connection.connect, "kwargs", "transport")
        and "transport_factory" in aiormq.Connection.__init__.__code__.co_varnames
    )


def _takes_our_reader() -> bool:
    protocol = asyncio.StreamReaderProtocol
    return _uses(protocol.data_received, "feed_data") and _uses(protocol.eof_received, "feed_eof")


CHECKS: Mapping[str, Callable[[], bool]] = {
    "aiormq.Channel keeps its unconfirmed publishes in known attributes": _keeps_books,
    "aio-pika and aiormq take a transport factory": _takes_our_socket,
    "asyncio feeds the stream reader": _takes_our_reader,
    "aiormq keeps connection.blocked in an event": functools.partial(_uses, aiormq.Connection.ready, FLOW),
    "a publish has the bytes of the driver's": publishes_as_the_driver,
    "a delivery is read as the driver reads it": delivers_as_the_driver,
}
