"""``/ws``: one connection, many rooms. Frames in order, answers coalesced per event-loop tick."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs

from chatflow.adapters.websockets.frames import array_frames, decode, encode_json
from chatflow.adapters.websockets.joins import Joins, Subscription
from chatflow.adapters.websockets.pending import Sent, ack_of, ref_of, wants_stored
from chatflow.domain.ingest.pending import Ref
from chatflow.domain.messages.errors import InvalidRoom, Malformed
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.messages.validation import valid_message_id, valid_text, valid_user_id, valid_username
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.errors import NO_HELLO, POLICY, Denied, NotSeenStored, OutOfTurn, error_code, error_text
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.pacing import ANSWER_S, BYTE_S, FRAME_S, JOIN_S
from chatflow.domain.session.resend_guard import ResendGuard
from chatflow.domain.session.violations import Violations
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.socket import Socket

__all__ = ["NO_HELLO", "Sent", "Session", "Subscription"]

EARLY_FRAMES = 32
"""Before hello; one more closes the connection."""

ITEM_BYTES = 64
SINCE_MAX = 2**63 - 1


@attrs.define(eq=False)
class Session:
    """The state of one ``/ws`` connection.

    `receive` takes one frame and never waits. While ``inflight.is_stalled`` the caller stops reading, so that a
    sender that is faster than the broker is slowed by TCP. A frame may be worked off in slices; until the last one it
    has arrived and is not handled.
    """

    socket: Socket
    context: GatewayContext
    session_id: str
    client_ip: str
    call_soon: Callable[[Callable[[], None]], object]
    user: tuple[int, str] | None = attrs.field(default=None, init=False)
    is_ended: bool = attrs.field(default=False, init=False)
    inflight: Inflight = attrs.field(init=False)
    _guard: ResendGuard = attrs.field(init=False)
    _out: list[bytes] = attrs.field(factory=list, init=False)
    _joins: Joins = attrs.field(init=False)
    _expected: dict[Sent, str] = attrs.field(factory=dict, init=False)
    _arrivals: int = attrs.field(default=0, init=False)
    _frame: Sequence[Any] = attrs.field(default=(), init=False)
    _at: int = attrs.field(default=0, init=False)
    _uncharged_bytes: int = attrs.field(default=0, init=False)
    _early_frames: int = attrs.field(default=0, init=False)
    _unwritten: int = attrs.field(default=0, init=False)
    _violations: Violations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.context)
        self._joins = Joins(self)
        self._violations = Violations(self.context.clock, self.context.protocol_errors_max)
        self._guard = ResendGuard(self.socket, self.inflight.reading_time, caught_up=self.inflight.caught_up)

    def receive(self, frame: str | bytes, most: int = sys.maxsize) -> int:
        """Handle one frame, an object or an array of objects in order; see `Receiver.receive`."""
        self._uncharged_bytes = len(frame)
        if self.user is None or self.is_ended:
            self._receive_early()
        if self.is_ended:
            return 0
        try:
            value = decode(frame)
        except Malformed as exc:
            self._fault(None, exc)
            return 0
        if type(value) is not list:
            self._handle(value)
            return 0
        if not value:
            self._charge(0.0)
        self._frame, self._at = value, 0
        return self.go_on(most)

    def go_on(self, most: int) -> int:
        """See `Receiver.go_on`."""
        frame, at, debt = self._frame, self._at, self.inflight.debt
        end = min(len(frame), at + most)
        while at < end and not (self.is_ended or debt.is_due):
            self._handle(frame[at])
            at += 1
        self._at = at
        left = 0 if self.is_ended else len(self._frame) - self._at
        if not left:
            self._frame, self._at = (), 0
        return left

    def held_bytes(self) -> int:
        """See `Receiver.held_bytes`: answers that wait leave in this tick."""
        return (len(self._frame) - self._at) * ITEM_BYTES

    def hello_overdue(self) -> None:
        """Close unless a valid hello has come."""
        if self.user is None:
            self.is_ended = True
            self.socket.close(NO_HELLO, "no valid hello in time")

    def closed(self) -> None:
        """The connection has gone: leave every room. What was offered stays offered."""
        self._guard.close()
        self._joins.leave_all()
        for expected in tuple(self._expected):
            self._forget(expected)

    def answer(self, fields: Mapping[str, object]) -> None:
        """Send an object together with whatever else this tick answers."""
        self.inflight.count += 1
        self._unwritten += 1
        self._queue(encode_json(fields))

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Send frames behind the answers that wait."""
        if self._out:
            self._flush()
        self.socket.send(frames)

    def accepted(self, message: Message, ref: Ref) -> None:
        """See `Sink.accepted`."""
        sent = cast("Sent", ref)
        if sent.message_id is not None:
            self._guard.accepted(sent.room_id, sent.message_id)
        if not sent.wants_stored:
            self.inflight.settle()
            self._queue(ack_of(sent.ref, message))

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        sent = cast("Sent", ref)
        if sent.wants_stored:
            if sent not in self._expected:
                return  # it was stored all the same, and the sender knows
            self._forget(sent)
        self.inflight.settle()
        self._refuse(sent, error)

    def stored(self, sent: Sent, stored: StoredMessage) -> None:
        """The commit that a send asked to hear of."""
        del self._expected[sent]
        self.inflight.settle()
        self._queue(ack_of(sent.ref, stored.message, stored.seq))

    def not_seen_stored(self, sent: Sent) -> None:
        """A send was accepted, but its commit was not seen in time."""
        del self._expected[sent]
        self.inflight.settle()
        self.error(sent.ref, NotSeenStored())

    def _handle(self, item: Any) -> None:
        if type(item) is not dict:
            self._fault(None, Malformed("a frame is an object or an array of objects"))
            return
        ref = item.get("ref")
        try:
            if ref is not None and type(ref) not in (str, int):
                ref = None
                raise Malformed("ref must be a string or an integer")
            self._perform(item, ref)
        except ChatflowError as exc:
            self._fault(ref, exc)

    def _perform(self, item: dict[str, Any], ref: object) -> None:
        match item.get("op"):
            case "send":
                self._send(item, ref, *self._sender())
            case "join":
                self._sender()
                self._join(item, ref)
            case "leave":
                self._sender()
                self._leave(item, ref)
            case "hello":
                self._hello(item, ref)
            case _:
                raise Malformed("op must be hello, join, leave or send")

    def _hello(self, item: dict[str, Any], ref: object) -> None:
        if self.user is not None:
            raise Malformed("hello was said already")
        if "token" in item:
            raise Denied("unauthorized", "tokens are not accepted here: say hello with userId and username")
        limits = self.context.limits
        self.user = (valid_user_id(item.get("userId"), limits), valid_username(item.get("username"), limits))
        self.answer(
            {
                "op": "welcome",
                **ref_of(ref),
                "session": self.session_id,
                "userId": self.user[0],
                "username": self.user[1],
                "heartbeat": _number(self.context.heartbeat_s),
            }
        )

    def _join(self, item: dict[str, Any], ref: object) -> None:
        room_id = self._room_of(item)
        since = item.get("since")
        if since is not None and (type(since) is not int or not 0 <= since <= SINCE_MAX):
            raise Malformed("since must be a sequence number, 0 or more")
        self._joins.check_room_for(room_id)
        self._charge(JOIN_S)
        self._joins.join(room_id, ref, since)

    def _leave(self, item: dict[str, Any], ref: object) -> None:
        room_id = self._room_of(item)
        self._charge(ANSWER_S)
        self._joins.leave(room_id)
        self.answer({"op": "left", **ref_of(ref), "room": room_id})

    def _send(self, item: dict[str, Any], ref: object, user_id: int, username: str) -> None:
        context = self.context
        context.metrics.messages_received += 1
        room_id = self._room_of(item)
        text = valid_text(item.get("text"), context.limits, "text")
        own_id = valid_message_id(item.get("id"), "id")
        self._arrivals += 1
        sent = Sent(self, room_id, ref, self._arrivals, own_id, wants_stored(item.get("ack")))
        now_us = context.stamps.now_us()
        message = Message(
            own_id or context.stamps.new_id(),
            room_id,
            user_id,
            username,
            text,
            "TEXT",
            now_us,
            now_us,
            context.stamps.server_id,
            self.client_ip,
        )
        if not self._guard.admits(room_id, own_id):
            self._charge(ANSWER_S)
            self._refuse(sent, OutOfTurn())
            return
        if sent.wants_stored:
            self._expect(sent, message.message_id)
        try:
            context.publisher.offer(message, self, sent)
        except ChatflowError as exc:
            if sent.wants_stored:
                self._forget(sent)
            self._charge(ANSWER_S)
            self._refuse(sent, exc)
        else:
            self.inflight.count += 1

    def _sender(self) -> tuple[int, str]:
        if self.user is None:
            raise Denied("unauthorized", "say hello first")
        return self.user

    def _expect(self, sent: Sent, message_id: str) -> None:
        self._expected[sent] = message_id
        self.context.stored_acks.expect(message_id, sent)

    def _forget(self, sent: Sent) -> None:
        self.context.stored_acks.forget(self._expected.pop(sent), sent)

    def _room_of(self, item: dict[str, Any]) -> str:
        room = item.get("room")
        if type(room) is not str:
            raise InvalidRoom(self.context.limits.room_max)
        return normalise_room(room, self.context.limits.room_max)

    def _refuse(self, sent: Sent, error: ChatflowError) -> None:
        if error.retryable:
            self._guard.refused(sent.room_id, sent.message_id, sent.arrival, out_of_turn=type(error) is OutOfTurn)
            if sent.message_id is not None:
                self._guard.sent(sent.room_id, sent.message_id)
        self.error(sent.ref, error)

    def _receive_early(self) -> None:
        """What comes before hello is little, and what comes after the end is nothing."""
        self._charge(0.0)
        self._early_frames += 1
        if self._early_frames > EARLY_FRAMES:
            self._end(NO_HELLO, "too much before hello")

    def _charge(self, cost_s: float) -> None:
        """Charge an item that is no send, and its frame with the first of them."""
        if size := self._uncharged_bytes:
            cost_s += FRAME_S + size * BYTE_S
            self._uncharged_bytes = 0
        self.inflight.charge_answer(cost_s)

    def _fault(self, ref: object, error: ChatflowError) -> None:
        """Answer what cannot be done as it was asked for; who does not speak the protocol is closed in the end."""
        self._charge(ANSWER_S)
        self.error(ref, error)
        if self._violations.add(error):
            self._end(*((NO_HELLO, "too much before hello") if self.user is None else (POLICY, "too many errors")))

    def _end(self, code: int, reason: str) -> None:
        """Close, and handle nothing that still comes."""
        if not self.is_ended:
            self.is_ended = True
            self.context.metrics.protocol_violators_dropped += 1
            self._flush()
            self.socket.close(code, reason)

    def error(self, ref: object, error: ChatflowError) -> None:
        """Answer that something cannot be done."""
        self.context.metrics.errors += 1
        self.answer(
            {
                "op": "error",
                **ref_of(ref),
                "code": error_code(error),
                "message": error_text(error),
                "retryable": error.retryable,
            }
        )

    def _queue(self, piece: bytes) -> None:
        if not self._out:
            self.call_soon(self._flush)
        self._out.append(piece)

    def _flush(self) -> None:
        if self._out:
            pieces, self._out = self._out, []
            self.socket.send(array_frames(pieces))
        if self._unwritten:
            count, self._unwritten = self._unwritten, 0
            self.inflight.settle(count)


def _number(value: float) -> float:
    """Without a fraction if there is none: ``25``, which some clients read as an integer, and not ``25.0``."""
    return int(value) if value == int(value) else value
