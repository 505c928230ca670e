"""The same connection with nothing but the driver's public interface, for drivers that fail `compat`'s self-check.

An envelope costs three times the CPU to publish and seven times to receive. The promises are the same. What differs:

* A blocked connection is noticed within 0.2 s, by asking the driver every `POLL_S` whether it is ready.
* A silent server is noticed because it does not answer a request, sent every `PROBE_INTERVAL_S`, that changes nothing.
* A virtual host that does not exist is retried as if the server were down, since the driver drops the reason.
* The driver closes an aborted connection in the background, and the server learns of it a little later.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import aio_pika
import aiormq
import aiormq.abc
import attrs

from chatflow.adapters.rabbitmq.driver_connection import DriverConnection, PublishChannel
from chatflow.adapters.rabbitmq.errors import DRIVER_ERRORS
from chatflow.adapters.rabbitmq.frame_cutter import DeliveryHandler, RawDelivery
from chatflow.adapters.rabbitmq.publish_frames import PublishRoute

PROBE_INTERVAL_S = 0.5
POLL_S = 0.1


@attrs.define(eq=False)
class PublicPublisher:
    """One aio-pika channel to publish over."""

    channel: aio_pika.abc.AbstractChannel
    _exchanges: dict[str, aio_pika.abc.AbstractExchange] = attrs.field(factory=dict, init=False)

    @property
    def is_closed(self) -> bool:
        """See `PublishChannel.is_closed`."""
        return self.channel.is_closed

    async def publish(self, route: PublishRoute, body: bytes) -> None:
        """See `PublishChannel.publish`."""
        exchange = self._exchanges.get(route.exchange)
        if exchange is None:
            exchange = await self.channel.get_exchange(route.exchange, ensure=False)
            self._exchanges[route.exchange] = exchange
        message = aio_pika.Message(
            body,
            headers=dict(route.headers),
            content_type=route.content_type,
            delivery_mode=aio_pika.DeliveryMode(route.mode),
        )
        await exchange.publish(message, route.key, mandatory=route.mandatory)


class PublicConnection(DriverConnection):
    """See the module."""

    _heard_at = 0.0
    _is_blocked = False
    _watchers: tuple["asyncio.Task[None]", ...] = ()

    async def connect(self, timeout: aio_pika.abc.TimeoutType = None) -> None:
        """See `aio_pika.Connection.connect`."""
        await super().connect(timeout)
        channel = await self.open_channel()
        self._heard_at = time.monotonic()
        self._watchers = (
            asyncio.create_task(self._probe(channel), name="broker-probe"),
            asyncio.create_task(self._watch_flow(channel.connection), name="broker-flow"),
        )

    @property
    def is_blocked(self) -> bool:
        """See `DriverConnection.is_blocked`."""
        return self._is_blocked

    def silent_s(self) -> float:
        """See `DriverConnection.silent_s`; a server that blocks the connection reads no probes either."""
        return 0.0 if self._is_blocked else time.monotonic() - self._heard_at

    async def open_publisher(self, *, confirms: bool) -> PublishChannel:
        """See `DriverConnection.open_publisher`."""
        return PublicPublisher(await self._initialized(confirms=confirms))

    async def consume(
        self,
        channel: aiormq.Channel,
        queue: str,
        handler: DeliveryHandler,
        on_gap: Callable[[str], None],
        *,
        no_ack: bool = False,
    ) -> None:
        """See `DriverConnection.consume`; the driver starts a task for each delivery, so their order is checked."""
        last_tag = 0

        async def deliver(message: aiormq.abc.DeliveredMessage) -> None:
            nonlocal last_tag
            self._heard_at = time.monotonic()
            delivery = _raw(message)
            if delivery.tag != last_tag + 1:
                on_gap(f"delivery {delivery.tag} came after {last_tag}")
                return
            last_tag = delivery.tag
            handler(delivery)

        await channel.basic_consume(queue, deliver, no_ack=no_ack)

    async def drain(self) -> None:
        """Nothing to wait for: each publish has waited for the socket."""

    def abort(self) -> None:
        """See `DriverConnection.abort`; the driver ends the socket when it may."""
        if self.is_open:
            _closing.add(task := asyncio.ensure_future(self._let_close()))
            task.add_done_callback(_closing.discard)

    async def close(self, exc: aiormq.abc.ExceptionType | None = aio_pika.exceptions.ConnectionClosed) -> None:
        """See `aio_pika.Connection.close`."""
        self._end_watchers()
        await super().close(exc)

    def _note_loss(self, sender: object, reason: BaseException | None) -> None:
        super()._note_loss(sender, reason)
        self._end_watchers()

    def _end_watchers(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()

    async def _probe(self, channel: aiormq.Channel) -> None:
        with contextlib.suppress(*DRIVER_ERRORS):  # the connection says so itself, or falls silent
            while True:
                await channel.basic_qos(prefetch_count=1)
                self._heard_at = time.monotonic()
                await asyncio.sleep(PROBE_INTERVAL_S)

    async def _watch_flow(self, driver: aiormq.abc.AbstractConnection) -> None:
        while True:
            ready = asyncio.ensure_future(driver.ready())
            try:
                await asyncio.wait([ready], timeout=POLL_S)
                if not ready.done():
                    self._set_blocked(is_blocked=True)
                    await ready
                    self._set_blocked(is_blocked=False)
            finally:
                ready.cancel()
            await asyncio.sleep(POLL_S)

    def _set_blocked(self, *, is_blocked: bool) -> None:
        self._heard_at = time.monotonic()
        self._is_blocked = is_blocked
        self.on_blocked(is_blocked)


_closing: "set[asyncio.Future[None]]" = set()
"""Aborted connections that the driver still closes; a task that nobody holds may vanish."""


def _raw(message: aiormq.abc.DeliveredMessage) -> RawDelivery:
    frame: Any = message.delivery  # a `spec.Basic.Deliver`: nothing else reaches a consumer
    headers = message.header.properties.headers or {}
    return RawDelivery(frame.delivery_tag or 0, bool(frame.redelivered), frame.routing_key or "", headers, message.body)
