"""What the broker has put aside: envelopes that nobody could read, or that were given out too often."""

from collections.abc import Mapping
from typing import Any

import aiormq
import aiormq.abc
import attrs
from aiormq import spec

from chatflow.adapters.rabbitmq.codec import Undecodable, decode_messages, partition_in
from chatflow.adapters.rabbitmq.connection import Link
from chatflow.adapters.rabbitmq.consuming import close_channel
from chatflow.adapters.rabbitmq.errors import translated
from chatflow.adapters.rabbitmq.topology import DEAD
from chatflow.ports.messages import Message


@attrs.frozen(eq=False)
class DeadEnvelope:
    """One message of the dead queue.

    Attributes:
        tag, channel: who it was given to; it is settled there or comes again.
        body: as it came.
        partition: where it came from; ``None`` when its routing key names none.
        messages: what is in it; empty when unreadable.
        reason: ``rejected`` or ``delivery_limit``.
        died_at_s: seconds since the epoch; ``None`` when the broker does not say.
    """

    tag: int
    body: bytes
    partition: int | None
    messages: tuple[Message, ...]
    reason: str
    died_at_s: float | None
    channel: aiormq.Channel = attrs.field(repr=False)


@attrs.define(eq=False)
class DeadEnvelopes:
    """Reads ``chatflow.dead`` one by one, oldest first. What was taken and not settled comes back with `close`.

    All methods raise ``BrokerUnavailable``; what is taken then comes back by itself.
    """

    link: Link
    _channel: aiormq.Channel | None = attrs.field(default=None, init=False)

    async def peek(self, *, limit: int) -> list[DeadEnvelope]:
        """The oldest ones; all stay where they are."""
        reader = DeadEnvelopes(self.link)
        found: list[DeadEnvelope] = []
        try:
            while len(found) < limit and (letter := await reader.take()) is not None:
                found.append(letter)
        finally:
            await reader.close()
        return found

    async def take(self) -> DeadEnvelope | None:
        """The oldest one that is not taken yet; ``None`` when there is none."""
        with translated("read the dead"):
            if self._channel is None or self._channel.is_closed:
                self._channel = await self.link.connection().open_channel()
            channel = self._channel
            message = await channel.basic_get(DEAD)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else _letter(message, channel)

    async def settle(self, letter: DeadEnvelope) -> None:
        """Remove it for good."""
        with translated("settle"):
            await letter.channel.basic_ack(letter.tag)

    async def close(self) -> None:
        """Put back what is not settled; idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_channel(channel)


def _letter(message: aiormq.abc.DeliveredMessage, channel: aiormq.Channel) -> DeadEnvelope:
    frame: Any = message.delivery
    headers: Mapping[str, Any] = message.header.properties.headers or {}
    try:
        partition: int | None = partition_in(frame.routing_key)
    except Undecodable:
        partition = None
    try:
        messages = decode_messages(message.body, headers)
    except Undecodable:
        messages = ()
    deaths = headers.get("x-death") or [{}]
    died_at = deaths[0].get("time")
    return DeadEnvelope(
        frame.delivery_tag,
        message.body,
        partition,
        messages,
        str(headers.get("x-first-death-reason", "")),
        died_at.timestamp() if died_at is not None else None,
        channel,
    )
