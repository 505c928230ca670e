"""``/chat/{room}``: the compatible protocol. One reply per frame, in the order of the frames."""

from collections import deque
from collections.abc import Callable

import attrs

from chatflow.adapters.websockets.frames import decode, encode_json
from chatflow.domain.ingest.pending import Ref
from chatflow.domain.messages.errors import InvalidInput, Malformed
from chatflow.domain.messages.timestamps import format_timestamp
from chatflow.domain.messages.validation import message_from_chat
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.errors import QUEUE_UNAVAILABLE, OutOfTurn
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.pacing import ANSWER_S, BYTE_S, FRAME_S
from chatflow.domain.session.resend_guard import ResendGuard
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

    arrival: int
    size_bytes: int = REPLY_OVERHEAD_BYTES
    original: bytes = b"null"
    frame: bytes | None = None
    message_id: str | None = None
    is_refused: bool = False


@attrs.define(eq=False)
class ChatSession:
    """The state of one ``/chat/{room}`` connection; `receive` never waits.

    A refusal may have to wait in line behind an earlier frame that has no answer yet. Until it is sent everything is
    refused, and from then on the fence holds: the peer cannot have repeated what it was not told of.
    """

    socket: Socket
    context: GatewayContext
    room_id: str
    client_ip: str
    call_soon: Callable[[Callable[[], None]], object]
    is_ended: bool = attrs.field(default=False, init=False)
    inflight: Inflight = attrs.field(init=False)
    _guard: ResendGuard = attrs.field(init=False)
    _replies: deque[_Reply] = attrs.field(factory=deque, init=False)
    _untold: int = attrs.field(default=0, init=False)
    _arrivals: int = attrs.field(default=0, init=False)
    _flush_due: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.context)
        self._guard = ResendGuard(self.socket, self.inflight.reading_time, caught_up=self.inflight.caught_up)

    def receive(self, frame: str | bytes, most: int = 1) -> int:
        """Handle one frame; see `Receiver.receive`."""
        self.context.metrics.messages_received += 1
        self._arrivals += 1
        reply = _Reply(self._arrivals)
        self._replies.append(reply)
        self.inflight.count += 1
        try:
            self._offer(frame, reply)
        except ChatflowError as exc:
            self.inflight.charge_answer(ANSWER_S + FRAME_S + len(frame) * BYTE_S)
            self._refuse(reply, exc)
        self.inflight.held_bytes += reply.size_bytes
        return 0

    def go_on(self, most: int) -> int:
        """See `Receiver.go_on`; a frame is one message here."""
        return 0

    def held_bytes(self) -> int:
        """See `Receiver.held_bytes`."""
        return self.inflight.held_bytes

    def closed(self) -> None:
        """The connection has gone. What was offered stays offered."""
        self._guard.close()

    def accepted(self, message: Message, ref: Ref) -> None:
        """See `Sink.accepted`."""
        assert isinstance(ref, _Reply)  # noqa: S101  # we offered it
        ref.frame = b'{"originalMessage":%b,"serverTimestamp":"%b","status":"success","messageId":"%b"}' % (
            ref.original,
            format_timestamp(message.accepted_at_us).encode(),
            message.message_id.encode(),
        )
        ref.original = b""
        if ref.message_id is not None:
            self._guard.accepted(self.room_id, ref.message_id)
        self._schedule()

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        assert isinstance(ref, _Reply)  # noqa: S101  # we offered it
        self._refuse(ref, error)

    def _offer(self, frame: str | bytes, reply: _Reply) -> None:
        fields = decode(frame)
        if type(fields) is not dict:
            raise Malformed("malformed JSON")
        reply.original = encode_json(fields)
        reply.size_bytes += len(reply.original)
        context = self.context
        message = message_from_chat(
            fields, room_id=self.room_id, client_ip=self.client_ip, stamps=context.stamps, limits=context.limits
        )
        if fields.get("messageId") is not None:
            reply.message_id = message.message_id
        if self._untold or not self._guard.admits(self.room_id, reply.message_id):
            raise OutOfTurn
        context.publisher.offer(message, self, reply)

    def _refuse(self, reply: _Reply, error: ChatflowError) -> None:
        self.context.metrics.errors += 1
        if error.retryable:
            self._keep_order(reply, out_of_turn=type(error) is OutOfTurn)
        text = str(error) if isinstance(error, InvalidInput) else QUEUE_UNAVAILABLE
        reply.frame = b'{"originalMessage":%b,"serverTimestamp":"%b","status":"error","errorMessage":%b}' % (
            reply.original,
            format_timestamp(self.context.stamps.now_us()).encode(),
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
        if not reply.is_refused:
            return
        if reply.message_id is None:
            self._untold -= 1
            self._guard.refused(self.room_id, None, reply.arrival, out_of_turn=False)
        else:
            self._guard.sent(self.room_id, reply.message_id)

    def _keep_order(self, reply: _Reply, *, out_of_turn: bool) -> None:
        reply.is_refused = True
        if reply.message_id is None:
            self._untold += 1
        else:
            self._guard.refused(self.room_id, reply.message_id, reply.arrival, out_of_turn=out_of_turn)
