"""``/chat/{room}``: the compatible protocol. One reply per frame, in the order of the frames."""

from collections import deque
from collections.abc import Mapping
from typing import cast

import attrs

from chatflow.domain.ingest.pending import Ref
from chatflow.domain.messages.errors import Conflict, InvalidInput, Malformed
from chatflow.domain.session.chat_frame import message_from_chat
from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import QUEUE_UNAVAILABLE, Denied, OutOfTurn
from chatflow.domain.session.pacing import ANSWER_S, BYTE_S, FRAME_S
from chatflow.domain.session.rates import Action
from chatflow.domain.session.sign_in import SignIn
from chatflow.ports.errors import ChatflowError
from chatflow.ports.identity import Principal
from chatflow.ports.messages import Message

REPLY_OVERHEAD_BYTES = 160
"""What a reply has besides the echo of its frame."""

ChatFrame = tuple[Mapping[str, object], bytes]
"""A frame's fields, and the same as compact JSON, which its reply echoes."""

Fate = tuple[int, str | None, str]
"""When, in microseconds since the Unix epoch; the message's id, ``None`` if it was refused; why it was refused."""


@attrs.define(eq=False)
class ChatReply:
    """The reply to one frame, in its place in the line.

    Attributes:
        size_bytes: about what the reply will take, known before it is.
        original: the fields as they came, as compact JSON.
        message_id: the sender's own, ``None`` when it gave none.
        fate: ``None`` until the frame is accepted or refused.
        is_refused: it may come again, and must not be overtaken.
    """

    arrival: int
    size_bytes: int
    original: bytes
    message_id: str | None = None
    fate: Fate | None = None
    is_refused: bool = False


@attrs.define(eq=False)
class ChatSession(Session):
    """The state of one ``/chat/{room}`` connection.

    A refusal may have to wait in line behind an earlier frame that has no reply yet. Until it is sent everything is
    refused, and from then on the guard holds: the peer cannot have repeated what it was not told of.
    """

    room_id: str
    sign_in: SignIn = attrs.field(init=False)
    _replies: deque[ChatReply] = attrs.field(factory=deque, init=False)
    _untold: int = attrs.field(default=0, init=False)
    _is_awake: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.sign_in = SignIn(self)
        if self.context.authenticator is not None:
            self.sign_in.ask_at_once(_anybody)

    def receive(self, value: ChatFrame, size: int, most: int = 1) -> int:
        """Handle one frame; see `Session.receive`."""
        fields, original = value
        reply = self._reply(original)
        try:
            self._offer(fields, reply)
        except ChatflowError as exc:
            self._fault(reply, size, exc)
        self.inflight.held_bytes += reply.size_bytes
        return 0

    def receive_malformed(self, size: int) -> None:
        """See `Session.receive_malformed`."""
        reply = self._reply(b"null")
        self._fault(reply, size, Malformed("malformed JSON"))
        self.inflight.held_bytes += reply.size_bytes

    def take_answers(self) -> list[ChatReply]:
        """The replies that wait for nothing earlier."""
        self._is_awake = False
        replies, ready = self._replies, []
        while replies and replies[0].fate is not None:
            reply = replies.popleft()
            self._settle(reply)
            ready.append(reply)
        return ready

    def accepted(self, message: Message, ref: Ref) -> None:
        """See `Sink.accepted`."""
        reply = cast("ChatReply", ref)
        reply.fate = message.accepted_at_us, message.message_id, ""
        if reply.message_id is not None and self.guard.is_active:
            self.guard.accepted(self.room_id, reply.message_id)
        if not self._is_awake:
            self._is_awake = True
            self.wake()

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        reply = cast("ChatReply", ref)
        if not error.retryable and reply.message_id is not None and self.guard.is_active:
            self.guard.accepted(self.room_id, reply.message_id)  # it is settled, and holds nothing up
        self._refuse(reply, error)

    def _reply(self, original: bytes) -> ChatReply:
        self.context.metrics.messages_received += 1
        self.arrivals += 1
        if self.arrivals >= self.rates.next_look:
            self.rates.sent()
        reply = ChatReply(self.arrivals, REPLY_OVERHEAD_BYTES + len(original), original)
        self._replies.append(reply)
        self.inflight.count += 1
        return reply

    def _offer(self, fields: Mapping[str, object], reply: ChatReply) -> None:
        context = self.context
        message = message_from_chat(
            fields, room_id=self.room_id, client_ip=self.client_ip, stamps=context.stamps, limits=context.limits
        )
        if (access := self.access) is not None:
            access.check_user(message.user_id, message.username)
            access.check_write(self.room_id)
        if fields.get("messageId") is not None:
            reply.message_id = message.message_id
            context.recent_ids.check(message)
        if self._untold or (self.guard.is_active and not self.guard.admits(self.room_id, reply.message_id)):
            raise OutOfTurn
        if context.quotas.are_written:
            context.quotas.write(self.writer, message)
        context.publisher.offer(message, self, reply)

    def _fault(self, reply: ChatReply, size: int, error: ChatflowError) -> None:
        if not error.retryable:
            self.rates.spend(Action.ERROR)
        self.inflight.charge_answer(ANSWER_S + FRAME_S + size * BYTE_S)
        self.note_denial(error)
        self._refuse(reply, error)

    def _refuse(self, reply: ChatReply, error: ChatflowError) -> None:
        self.context.metrics.errors += 1
        if type(error) is Conflict:
            self.context.metrics.conflicts += 1
        if error.retryable:
            self._keep_order(reply, out_of_turn=type(error) is OutOfTurn)
        text = str(error) if isinstance(error, InvalidInput | Denied) else QUEUE_UNAVAILABLE
        reply.fate = self.context.stamps.now_us(), None, text
        if not self._is_awake:
            self._is_awake = True
            self.wake()

    def _settle(self, reply: ChatReply) -> None:
        self.inflight.held_bytes -= reply.size_bytes
        self.inflight.settle()
        if not reply.is_refused:
            return
        if reply.message_id is None:
            self._untold -= 1
            self.guard.refused(self.room_id, None, reply.arrival, out_of_turn=False)
        else:
            self.guard.sent(self.room_id, reply.message_id)

    def _keep_order(self, reply: ChatReply, *, out_of_turn: bool) -> None:
        reply.is_refused = True
        if reply.message_id is None:
            self._untold += 1
        else:
            self.guard.refused(self.room_id, reply.message_id, reply.arrival, out_of_turn=out_of_turn)


def _anybody(_principal: Principal) -> None:
    """Whoever has a token may connect; each frame asks what it allows."""
