"""Publishes past the driver: an envelope is one write to the socket, and its confirm one call.

The driver locks the channel, marshals three frames from objects, hands them to a task that writes them, and reads a
confirm with four awaits over two tasks. Here the frames of an envelope differ from those of the one before it in
three numbers and the body; the rest is encoded once per route. What the driver has to know stays with it: the next
delivery tag and the futures of the unconfirmed are its own, so it fails them when the channel or the connection ends.

Only ``basic.ack`` and ``basic.nack`` are taken from what the server says. A returned envelope is the driver's matter,
and so is every confirm of that channel from then on: the ack that follows a return must not be seen before it.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import aiormq
import attrs
import pamqp.encode
from aio_pika.exceptions import ChannelInvalidStateError, DeliveryError
from aiormq import spec

from chatflow.adapters.rabbitmq.frame_cutter import BODY, FRAME_END, HEADER, METHOD

BASIC = 60
PUBLISH = 40
MANDATORY = 1
TABLE, MODE, MESSAGE_ID, TYPE = 1 << 13, 1 << 12, 1 << 7, 1 << 15
"""Flags of the properties that envelopes have; they stand in the order of their flags, the highest first."""

_frame = struct.Struct(">BHI")
_method = struct.Struct(">HHH")
_content = struct.Struct(">HHQH")
_END = bytes([FRAME_END])


@attrs.frozen(eq=False)
class PublishRoute:
    """What envelopes of one kind have in common.

    Args:
        exchange: where to.
        key: the routing key.
        content_type: of the body.
        mode: 1 transient, 2 persistent.
        headers: few and small.
        mandatory: comes back if no queue takes it.
    """

    exchange: str
    key: str
    content_type: str = attrs.field(kw_only=True)
    mode: int = attrs.field(kw_only=True)
    headers: dict[str, Any] = attrs.field(kw_only=True)
    mandatory: bool = attrs.field(kw_only=True, default=False)
    _publish: bytes = attrs.field(init=False)
    _properties: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        names = _short(self.exchange) + _short(self.key)
        publish = _method.pack(BASIC, PUBLISH, 0) + names + bytes([MANDATORY if self.mandatory else 0])
        properties = _short(self.content_type) + pamqp.encode.field_table(self.headers) + bytes([self.mode])
        object.__setattr__(self, "_publish", publish)
        object.__setattr__(self, "_properties", properties)

    def frames(self, channel: int, message_id: str, body: bytes, longest: int) -> bytes:
        """The bytes of one publish; a body above ``longest`` bytes is split."""
        own_id = _short(message_id)
        size = _content.size + len(self._properties) + len(own_id)
        parts = [
            _frame.pack(METHOD, channel, len(self._publish)),
            self._publish,
            _END,
            _frame.pack(HEADER, channel, size),
            _content.pack(BASIC, 0, len(body), TYPE | TABLE | MODE | MESSAGE_ID),
            self._properties,
            own_id,
            _END,
        ]
        for start in range(0, len(body), longest):
            piece = body[start : start + longest]
            parts += (_frame.pack(BODY, channel, len(piece)), piece, _END)
        return b"".join(parts)


@attrs.define(eq=False)
class DirectPublisher:
    """One channel to publish over.

    Attributes:
        write: to the socket, at once.
    """

    channel: aiormq.Channel
    write: Callable[[bytes], None]

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be published any more."""
        return bool(self.channel.is_closed)

    def publish(self, route: PublishRoute, body: bytes) -> "asyncio.Future[Any] | None":
        """Write an envelope; on a channel with confirms, what ends with the server's answer to it.

        The future fails with ``DeliveryError`` if no queue took it for long, with ``PublishError`` if there was none,
        and with the reason when channel or connection end.

        Raises:
            ChannelInvalidStateError: the channel is closed.
        """
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
        """The server's answer to one envelope, or to all up to it."""
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


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
