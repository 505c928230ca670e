"""The dead letter queue: envelopes that no consumer could read, or that were delivered too often."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import aiormq
import aiormq.abc
import attrs
from aiormq import spec

from chatflow.adapters.rabbitmq.codec import SCHEMA_HEADER, Undecodable, decode_messages
from chatflow.adapters.rabbitmq.compat import connection_class
from chatflow.adapters.rabbitmq.connection import ReconnectingConnection
from chatflow.adapters.rabbitmq.consumer import close_channel
from chatflow.adapters.rabbitmq.errors import quiet_driver, translated
from chatflow.adapters.rabbitmq.topology import DEAD
from chatflow.ports.broker import DeadEnvelope

ID_DIGITS = 12
Receipt = tuple[aiormq.Channel, int]
"""The channel that delivered it and its tag there: only that channel can ack it."""


@attrs.define(eq=False)
class RabbitDeadLetterQueue:
    """See `DeadLetterQueue`: gets from ``chatflow.dead``, one at a time."""

    connection: ReconnectingConnection
    _channel: aiormq.Channel | None = attrs.field(default=None, init=False)

    async def waiting(self) -> int:
        with translated("count dead letters"):
            channel = await self._open_channel()
            answer = await channel.queue_declare(DEAD, passive=True)
        return answer.message_count or 0

    async def take(self) -> DeadEnvelope | None:
        with translated("read a dead letter"):
            channel = await self._open_channel()
            message = await channel.basic_get(DEAD)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else _dead_envelope(message, channel)

    async def remove(self, envelope: DeadEnvelope) -> None:
        channel, tag = cast("Receipt", envelope.receipt)
        with translated("remove a dead letter"):
            await channel.basic_ack(tag)

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_channel(channel)

    async def _open_channel(self) -> aiormq.Channel:
        """The channel, opened anew after a loss: what the old one had taken is back in the queue."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await self.connection.connection().open_channel()
        return self._channel


@asynccontextmanager
async def open_dead_letter_queue(
    urls: Sequence[str], *, driver_fallback: bool = False
) -> AsyncIterator[RabbitDeadLetterQueue]:
    """A reader of the dead letter queue over one connection; declares nothing.

    Raises:
        BrokerUnavailable: no node answers.
        BrokerMisconfigured: the server refuses us.
    """
    quiet_driver()
    connection = ReconnectingConnection(
        "dead letters", tuple(urls), connection_class=connection_class(forced_fallback=driver_fallback)
    )
    await connection.start()
    dead = RabbitDeadLetterQueue(connection)
    try:
        yield dead
    finally:
        await dead.close()
        await connection.close()


def _dead_envelope(message: aiormq.abc.DeliveredMessage, channel: aiormq.Channel) -> DeadEnvelope:
    frame: Any = message.delivery
    headers: Mapping[str, Any] = message.header.properties.headers or {}
    unreadable = ""
    try:
        messages = decode_messages(message.body, headers)
    except Undecodable as exc:
        messages, unreadable = (), str(exc)
    deaths = headers.get("x-death") or [{}]
    death = deaths[0]
    died_at = death.get("time")
    return DeadEnvelope(
        _id_of(message.body, frame.routing_key, headers.get(SCHEMA_HEADER)),
        message.body,
        messages,
        unreadable,
        str(death.get("reason", "")),
        str(death.get("queue", "")),
        int(death.get("count", 0)),
        died_at.timestamp() if died_at is not None else None,
        (channel, int(frame.delivery_tag)),
    )


def _id_of(body: bytes, *origin: object) -> str:
    return hashlib.sha256(body + repr(origin).encode()).hexdigest()[:ID_DIGITS]


if TYPE_CHECKING:
    from chatflow.ports.broker import DeadLetterQueue

    _: type[DeadLetterQueue] = RabbitDeadLetterQueue
