"""What aio-pika's connection does not tell: that it is blocked, since when the peer is silent, how to end it now."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, cast

import aio_pika
import aiormq
import pamqp.frame
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError, InvalidFrameError
from aiormq import spec
from aiormq.connection import TransportFactory
from aiormq.exceptions import ConnectionNotAllowed
from pamqp.exceptions import PAMQPException
from yarl import URL

from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.frame_cutter import DeliveryHandler, FrameCutter
from chatflow.adapters.rabbitmq.publish_frames import DirectPublisher
from chatflow.ports.errors import BrokerUnavailable


class _Reader(asyncio.StreamReader):
    """Remembers what the peer sent last and when (``time.monotonic``); the driver reads what `FrameCutter` leaves."""

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


class _Socket(TransportFactory):
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


class _Flow(asyncio.Event):
    """The driver's own flag, set while the server takes publishes, and a callback when it changes."""

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


class DirectConnection(aio_pika.Connection):
    """An aio-pika connection that can be watched and ended.

    Args:
        on_blocked: called with True at ``connection.blocked`` and with False at ``connection.unblocked``.
    """

    def __init__(self, url: URL, *, on_blocked: Callable[[bool], None], **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self._socket = _Socket()
        self._on_blocked = on_blocked
        self._flow = asyncio.Event()
        self.kwargs["transport_factory"] = self._socket

    async def connect(self, timeout: aio_pika.abc.TimeoutType = None) -> None:
        """See `aio_pika.Connection.connect`."""
        try:
            await super().connect(timeout)
        except InvalidFrameError as exc:
            self._raise_refusal(exc)
            raise
        self._flow = _Flow(self._on_blocked)
        # aiormq has no public event for connection.blocked; it keeps this flag, and waits on it before channels open.
        flag = "_Connection__connection_unblocked"
        if getattr(self.driver, flag).is_set():
            asyncio.Event.set(self._flow)
        setattr(self.driver, flag, self._flow)

    def _raise_refusal(self, error: InvalidFrameError) -> None:
        """The driver drops the reason when the server closes instead of opening a virtual host."""
        try:
            _, _, frame = pamqp.frame.unmarshal(self._socket.reader.heard if self._socket.reader else b"")
        except PAMQPException:
            return
        if isinstance(frame, spec.Connection.Close):
            raise ConnectionNotAllowed(frame.reply_text) from error

    @property
    def driver(self) -> aiormq.abc.AbstractConnection:
        """The aiormq connection underneath."""
        if self.transport is None:
            raise ChannelInvalidStateError("the connection is not open")
        return self.transport.connection

    @property
    def driver_is_open(self) -> bool:
        """Whether the socket is still good, as far as is known."""
        return self.transport is not None and not self.transport.connection.is_closed

    def lost(self) -> "asyncio.Future[None]":
        """A future of its own for each caller that ends with the connection."""
        return self.driver.closing

    @property
    def is_blocked(self) -> bool:
        """Whether the server has stopped reading what is published here."""
        return not self._flow.is_set()

    def silent_s(self) -> float:
        """Seconds since the peer last sent a byte."""
        reader = self._socket.reader
        return time.monotonic() - reader.heard_at if reader else 0.0

    async def open_channel(self, *, confirms: bool = False) -> aiormq.Channel:
        """A channel as the driver has it, for the paths where each envelope counts; unroutable envelopes raise."""
        channel = await self.driver.channel(publisher_confirms=confirms, on_return_raises=True)
        return cast("aiormq.Channel", channel)

    async def open_publisher(self, *, confirms: bool) -> DirectPublisher:
        """A channel to publish over."""
        publisher = DirectPublisher(await self.open_channel(confirms=confirms), self._write)
        if confirms and self._socket.reader is not None:
            self._socket.reader.frames.on_confirm(publisher.channel.number, publisher.confirm)
        return publisher

    async def drain(self) -> None:
        """Wait while the socket takes less than it is given."""
        if self._socket.writer is not None:
            await self._socket.writer.drain()

    def _write(self, data: bytes) -> None:
        transport = self._socket.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the connection has ended")
        transport.write(data)

    def on_delivery(self, channel: aiormq.Channel, handler: DeliveryHandler) -> None:
        """Call ``handler`` with what comes for a channel's only consumer, in order; before that consumer is opened."""
        if self._socket.reader is None:
            raise ChannelInvalidStateError("the connection is not open")
        self._socket.reader.frames.on_delivery(channel.number, handler)

    def abort(self) -> None:
        """End the socket at once, as the death of the peer would."""
        if self._socket.transport is not None:
            self._socket.transport.abort()

    async def shut(self, grace_s: float) -> None:
        """Close with the server's consent, or without it after ``grace_s``; never fails.

        The driver's own close is left to itself: cancelled, it goes on to wait for a socket that nobody ends any more.
        """
        closing = asyncio.ensure_future(self._let_close())
        try:
            await asyncio.wait([closing], timeout=grace_s)
        finally:
            self.abort()
            await asyncio.wait([closing], timeout=grace_s)

    async def _let_close(self) -> None:
        with contextlib.suppress(BrokerUnavailable), translated("close"):
            await self.close()
