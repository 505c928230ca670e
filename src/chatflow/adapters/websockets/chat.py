"""``/chat/{room}``: the compatible protocol. One reply per frame, in the order of the frames."""

from collections import deque
from collections.abc import Callable

import attrs
import msgspec

from chatflow.adapters.websockets.fence import Fence
from chatflow.adapters.websockets.frames import decode, encode_json
from chatflow.adapters.websockets.gate import QUEUE_UNAVAILABLE, Fenced, Gate, Inflight
from chatflow.domain.invalid import InvalidInput, Malformed
from chatflow.domain.outbox import Ref
from chatflow.domain.times import format_timestamp
from chatflow.domain.validation import message_from_chat
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message
from chatflow.ports.socket import Socket

REPLY_OVERHEAD_BYTES = 160
"""What an answer has besides the echo of its frame."""


@attrs.define(eq=False)
class _Reply:
    """The answer to one frame, in its place in the line.

    Attributes:
        size_bytes: about what the answer will take, known before it is.
        original: the fields as they came, until the answer is known.
        frame: the answer, ``None`` until it is known.
    """

    size_bytes: int = REPLY_OVERHEAD_BYTES
    original: bytes = b"null"
    frame: bytes | None = None
    retryable: bool = False


@attrs.define(eq=False)
class ChatSession:
    """The state of one ``/chat/{room}`` connection; `receive` never waits.

    A refusal may have to wait in line behind an earlier frame that has no answer yet. Until it is sent everything is
    refused, and from then on the fence holds: the peer cannot have repeated what it was not told of.
    """

    socket: Socket
    gate: Gate
    room_id: str
    client_ip: str
    call_soon: Callable[[Callable[[], None]], object]
    inflight: Inflight = attrs.field(init=False)
    _fence: Fence = attrs.field(init=False)
    _replies: deque[_Reply] = attrs.field(factory=deque, init=False)
    _refusals_in_line: int = attrs.field(default=0, init=False)
    _flush_due: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.gate)
        self._fence = Fence(self.socket, self.gate.clock)

    def receive(self, frame: str | bytes) -> None:
        """Handle one frame."""
        self.gate.figures.messages_received += 1
        reply = _Reply()
        self._replies.append(reply)
        self.inflight.count += 1
        try:
            self._offer(frame, reply)
        except ChatflowError as exc:
            self._refuse(reply, exc)
        self.inflight.held_bytes += reply.size_bytes

    def closed(self) -> None:
        """The connection has gone. What was offered stays offered."""
        self._fence.close()

    def accepted(self, message: Message, ref: Ref) -> None:
        """See `Sink.accepted`."""
        assert isinstance(ref, _Reply)  # noqa: S101  # we offered it
        ref.frame = b'{"originalMessage":%b,"serverTimestamp":"%b","status":"success","messageId":"%b"}' % (
            ref.original,
            format_timestamp(message.accepted_at_us).encode(),
            message.message_id.encode(),
        )
        ref.original = b""
        self._schedule()

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        assert isinstance(ref, _Reply)  # noqa: S101  # we offered it
        self._refuse(ref, error)

    def _offer(self, frame: str | bytes, reply: _Reply) -> None:
        fields = decode(frame)
        if type(fields) is not dict:
            raise Malformed("malformed JSON")
        reply.original = _echo(fields, frame)
        reply.size_bytes += len(reply.original)
        gate = self.gate
        message = message_from_chat(
            fields, room_id=self.room_id, client_ip=self.client_ip, stamps=gate.stamps, limits=gate.limits
        )
        if self._refusals_in_line or self.room_id in self._fence:
            raise Fenced
        gate.acceptor.offer(message, self, reply)

    def _refuse(self, reply: _Reply, error: ChatflowError) -> None:
        self.gate.figures.errors += 1
        if error.retryable:
            reply.retryable = True
            self._refusals_in_line += 1
        text = str(error) if isinstance(error, InvalidInput) else QUEUE_UNAVAILABLE
        reply.frame = b'{"originalMessage":%b,"serverTimestamp":"%b","status":"error","errorMessage":%b}' % (
            reply.original,
            format_timestamp(self.gate.stamps.now_us()).encode(),
            encode_json(text),
        )
        reply.original = b""
        self._schedule()

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.call_soon(self._flush)

    def _flush(self) -> None:
        """Send the replies that nothing earlier waits before."""
        self._flush_due = False
        replies, frames = self._replies, []
        while replies and (frame := replies[0].frame) is not None:
            frames.append(frame)
            self._settle(replies.popleft())
        self.socket.send(frames)

    def _settle(self, reply: _Reply) -> None:
        self.inflight.held_bytes -= reply.size_bytes
        self.inflight.settle()
        if reply.retryable:
            self._refusals_in_line -= 1
            self._fence.refused(self.room_id)


def _echo(fields: dict[str, object], frame: str | bytes) -> bytes:
    """The fields as they came, compact."""
    try:
        return encode_json(fields)
    except (msgspec.MsgspecError, OverflowError, TypeError):  # a number that only the client can write
        return frame.encode() if isinstance(frame, str) else frame
