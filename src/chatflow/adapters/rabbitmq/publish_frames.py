"""The bytes of a publish: what envelopes of one kind have in common is encoded once per route.

An envelope's frames differ from those of the one before it in three numbers and the body. AMQP 0-9-1, section 4.2.
"""

import struct
from typing import Any

import attrs
import pamqp.encode

from chatflow.adapters.rabbitmq.frame_cutter import BODY, FRAME_END, HEADER, METHOD

BASIC = 60
PUBLISH = 40
MANDATORY = 1
TABLE, MODE, MESSAGE_ID, TYPE = 1 << 13, 1 << 12, 1 << 7, 1 << 15
"""Flags of the properties that envelopes have; properties follow in the order of their flags, the highest first."""

_frame = struct.Struct(">BHI")
_method = struct.Struct(">HHH")
_content = struct.Struct(">HHQH")
_END = bytes([FRAME_END])


@attrs.frozen(eq=False)
class PublishRoute:
    """Where envelopes of one kind go, and the parts of their frames that do not change.

    Args:
        exchange: to publish to.
        key: the routing key.
        content_type: of the body.
        mode: delivery mode, 1 transient, 2 persistent.
        headers: few and small.
        mandatory: return envelopes that no queue takes.
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
        """The frames of one publish; a body is split into pieces of at most ``longest`` bytes."""
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


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
