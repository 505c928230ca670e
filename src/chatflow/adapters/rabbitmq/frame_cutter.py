"""Cuts deliveries and confirms out of the server's bytes as they arrive, and hands each to its channel's handler.

The driver reads each frame with three awaits, builds objects for all three frames of a delivery, passes them through a
queue and starts a task: about 60 us of CPU per envelope, received and acked; here it is 10. Only the deliveries and
confirms of registered channels are taken out. The driver gets every other byte, unchanged and in order, and deliveries
that cannot be parsed.

Nothing here holds the server back: prefetch bounds what a consumer gets, and a live stream drops what exceeds its
limit. At most one unfinished frame, and one unfinished delivery per channel, are kept.

This module knows AMQP 0-9-1 and no driver.
"""

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import pamqp.decode

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
KINDS = frozenset({METHOD, HEADER, BODY, HEARTBEAT})
FRAME_END = 0xCE
LONGEST_FRAME = 1 << 24
"""Bytes; RabbitMQ's default is 2**17. A larger size means that these are no frames."""
DELIVER = struct.pack(">HH", 60, 60)
ACK, NACK = struct.pack(">HH", 60, 80), struct.pack(">HH", 60, 120)
RETURN = struct.pack(">HH", 60, 50)
CHANNEL_ENDS = frozenset({struct.pack(">HH", 20, 40), struct.pack(">HH", 20, 41)})
"""``channel.close`` and ``channel.close-ok``: another channel may get the number."""
SIGN_OF_LIFE = struct.pack(">BHIB", HEARTBEAT, 0, 0, FRAME_END)
SIGN_INTERVAL_S = 1.0
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, MORE_FLAGS = 1 << 15, 1 << 14, 1 << 13, 1
KNOWN_TABLES = 64
UNREADABLE = (ArithmeticError, LookupError, OSError, RecursionError, ValueError, struct.error)
"""What parsers raise for malformed bytes."""

_frame = struct.Struct(">BHI")
_content = struct.Struct(">HHQH")
_tag = struct.Struct(">QB")
_size = struct.Struct(">I")
PAYLOAD = _frame.size
CONFIRM_SIZE = PAYLOAD + len(ACK) + _tag.size + 1


@attrs.define
class RawDelivery:
    """One delivery. ``headers`` is shared with equal ones: do not change it."""

    tag: int
    redelivered: bool
    routing_key: str
    headers: Mapping[str, Any]
    body: bytes


DeliveryHandler = Callable[[RawDelivery], None]


class ConfirmHandler(Protocol):
    """Called with the server's confirms of what was published over a channel."""

    def __call__(self, tag: int, *, multiple: bool, acked: bool) -> None:
        """Settle one publish, or all up to it."""


@attrs.define(eq=False)
class _Assembly:
    """A channel's handler, and the frames of its unfinished delivery."""

    handler: DeliveryHandler
    frames: list[bytes] = attrs.field(factory=list)
    missing: int = 0
    """Bytes of the body, once the header has arrived."""

    def wants(self, frame: bytes) -> bool:
        """Whether a frame continues the unfinished delivery."""
        if len(self.frames) > 1:
            return frame[0] == BODY and 0 < len(frame) - PAYLOAD - 1 <= self.missing
        return frame[0] == HEADER and len(frame) > PAYLOAD + _content.size

    def add(self, frame: bytes) -> bool:
        """Add a frame; return whether the delivery is complete."""
        self.frames.append(frame)
        if len(self.frames) == 1:
            return False
        if len(self.frames) == 2:
            self.missing = _content.unpack_from(frame, PAYLOAD)[2]
        else:
            self.missing -= len(frame) - PAYLOAD - 1
        return self.missing == 0


@attrs.define(eq=False)
class FrameCutter:
    """See the module.

    Args:
        pass_on: called with whole frames for the driver, several at a time.
    """

    pass_on: Callable[[bytes], None]
    _channels: dict[int, _Assembly] = attrs.field(factory=dict, init=False)
    _confirm_handlers: dict[int, ConfirmHandler] = attrs.field(factory=dict, init=False)
    _begun: bytearray = attrs.field(factory=bytearray, init=False)
    _needed: int = attrs.field(default=0, init=False)
    """Length of `_begun` at which a frame may be complete."""
    _is_broken: bool = attrs.field(default=False, init=False)
    _passed_at: float = attrs.field(default=0.0, init=False)

    def on_delivery(self, channel: int, handler: DeliveryHandler) -> None:
        """Hand a channel's deliveries to ``handler`` until the channel closes; call it before consuming."""
        self._channels[channel] = _Assembly(handler)

    def on_confirm(self, channel: int, handler: ConfirmHandler) -> None:
        """Hand a channel's confirms to ``handler`` until the channel closes or an envelope is returned."""
        self._confirm_handlers[channel] = handler

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the server; ``now`` in seconds."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return
            data = bytes(self._begun)
            self._begun.clear()
        if self._is_broken:
            self.pass_on(data)
        else:
            self._cut(data, now)

    def end(self) -> None:
        """The server sends no more: pass on what it left unfinished, which the driver must see."""
        if self._begun:
            self.pass_on(bytes(self._begun))
            self._begun.clear()

    def _cut(self, data: bytes, now: float) -> None:
        at = passed = 0  # examined up to, and taken or passed on up to
        was_passed = was_taken = False
        while len(data) - at > PAYLOAD:
            kind, number, size = _frame.unpack_from(data, at)
            stop = at + PAYLOAD + size + 1
            if kind not in KINDS or size > LONGEST_FRAME:
                self._break(data[passed:])
                return
            if stop > len(data):
                self._needed = stop - at
                break
            if data[stop - 1] != FRAME_END:
                self._break(data[passed:])
                return
            channel = self._channels.get(number)
            if (channel is not None and self._is_taken(channel, number, data[at:stop])) or (
                number in self._confirm_handlers and self._is_settled(number, kind, data[at:stop])
            ):
                if at > passed:
                    self.pass_on(data[passed:at])
                    was_passed = True
                passed, was_taken = stop, True
            at = stop
        else:
            self._needed = PAYLOAD + 1
        if at > passed:
            self.pass_on(data[passed:at])
            was_passed = True
        self._begun += data[at:]
        if was_passed:
            self._passed_at = now
        elif was_taken and now - self._passed_at >= SIGN_INTERVAL_S:
            # The server sends no heartbeats while it sends deliveries, and the driver closes a silent connection.
            self._passed_at = now
            self.pass_on(SIGN_OF_LIFE)

    def _is_taken(self, channel: _Assembly, number: int, frame: bytes) -> bool:
        """Take the frame if it belongs to a delivery; return whether it did."""
        if not channel.frames:
            method = frame[PAYLOAD : PAYLOAD + 4] if frame[0] == METHOD else b""
            if method in CHANNEL_ENDS:
                del self._channels[number]
            if method != DELIVER:
                return False
        elif not channel.wants(frame):
            self._give_back(number)
            return False
        if channel.add(frame):
            self._hand_over(channel, number)
        return True

    def _is_settled(self, number: int, kind: int, frame: bytes) -> bool:
        """Take the frame if it is a confirm; return whether it was. Returns and closes end the taking of confirms."""
        method = frame[PAYLOAD : PAYLOAD + 4] if kind == METHOD else b""
        if method in (ACK, NACK) and len(frame) == CONFIRM_SIZE:
            tag, flags = _tag.unpack_from(frame, PAYLOAD + len(method))
            self._confirm_handlers[number](tag, multiple=bool(flags & 1), acked=method == ACK)
            return True
        if method == RETURN or method in CHANNEL_ENDS:
            del self._confirm_handlers[number]
        return False

    def _hand_over(self, channel: _Assembly, number: int) -> None:
        try:
            delivered = parse(channel.frames)
        except UNREADABLE:
            self._give_back(number)
            return
        channel.frames = []
        channel.handler(delivered)

    def _give_back(self, number: int) -> None:
        """Leave a channel to the driver, starting with its unfinished delivery."""
        if frames := self._channels.pop(number).frames:
            self.pass_on(b"".join(frames))

    def _break(self, rest: bytes) -> None:
        """Leave everything to the driver: these are no frames, and it will close the connection."""
        self._is_broken = True
        self._confirm_handlers.clear()
        for number in list(self._channels):
            self._give_back(number)
        self.pass_on(rest)


def parse(frames: list[bytes]) -> RawDelivery:
    """A delivery from its frames: ``basic.deliver``, header, and any number of bodies.

    Raises:
        UNREADABLE: one of these.
    """
    deliver, header, *bodies = frames
    at = PAYLOAD + len(DELIVER)
    at += 1 + deliver[at]  # the consumer tag: a channel has one consumer
    tag, redelivered = _tag.unpack_from(deliver, at)
    at += _tag.size
    at += 1 + deliver[at]  # the exchange
    key = deliver[at + 1 : -1]
    if len(key) != deliver[at]:
        raise ValueError("the routing key has another length than stated")
    body = bodies[0][PAYLOAD:-1] if len(bodies) == 1 else b"".join([each[PAYLOAD:-1] for each in bodies])
    return RawDelivery(tag, bool(redelivered & 1), key.decode(), _headers_in(header), body)


def _headers_in(header: bytes) -> Mapping[str, Any]:
    flags = _content.unpack_from(header, PAYLOAD)[3]
    if flags & MORE_FLAGS:
        raise ValueError("unknown properties")
    if not flags & HEADERS:
        return {}
    at = PAYLOAD + _content.size
    for flag in (CONTENT_TYPE, CONTENT_ENCODING):
        if flags & flag:
            at += 1 + header[at]
    stop = at + _size.size + _size.unpack_from(header, at)[0]
    if stop >= len(header):
        raise ValueError("a table exceeds its frame")
    return _table(header[at:stop])


@functools.lru_cache(KNOWN_TABLES)
def _table(data: bytes) -> Mapping[str, Any]:
    """Decode a header table; nearly all envelopes carry the same one."""
    return pamqp.decode.field_table(data)[1]
