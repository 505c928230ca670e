"""``/ws``: one connection, many rooms. Frames in order, answers coalesced per event-loop tick."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs

from chatflow.adapters.websockets.fence import Fence
from chatflow.adapters.websockets.frames import array_frames, decode, encode_json, session_frames
from chatflow.adapters.websockets.gate import (
    Denied,
    Fenced,
    Gate,
    Inflight,
    NotSeenStored,
    Superseded,
    error_code,
    error_text,
)
from chatflow.domain.delivering import Encode
from chatflow.domain.invalid import InvalidMessage, InvalidRoom, Malformed
from chatflow.domain.outbox import Ref
from chatflow.domain.rooms import normalise_room
from chatflow.domain.times import format_timestamp
from chatflow.domain.validation import valid_message_id, valid_text, valid_user_id, valid_username
from chatflow.ports.errors import ChatflowError, StoreError
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.socket import Socket

NO_HELLO = 4401
SINCE_MAX = 2**63 - 1


@attrs.define(eq=False)
class Subscription:
    """This session in one room; a new object for each join, so that a late one cannot undo a newer."""

    session: "Session"
    ref: object
    room_id: str
    encode: Encode = session_frames
    is_answered: bool = attrs.field(default=False, init=False)

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`."""
        self.is_answered = True
        self.session.answer({"op": "joined", **_ref(self.ref), "room": room_id, "head": head, "recovered": recovered})

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`; answers that wait go out first."""
        self.session.deliver(frames)

    async def drained(self) -> bool:
        """See `Subscriber.drained`."""
        return await self.session.socket.drained()


@attrs.define(eq=False)
class Sent:
    """A send that has no answer yet.

    Attributes:
        arrival: its place among all sends of the connection.
        message_id: the sender's own, ``None`` when it gave none and so cannot repeat it.
        wants_stored: the ack comes after the commit.
    """

    session: "Session"
    room_id: str
    ref: object
    arrival: int
    message_id: str | None
    wants_stored: bool

    def told(self, stored: StoredMessage) -> None:
        """See `Waiter.told`."""
        self.session.stored(self, stored)

    def given_up(self) -> None:
        """See `Waiter.given_up`."""
        self.session.not_seen_stored(self)


@attrs.define(eq=False)
class Session:
    """The state of one ``/ws`` connection.

    `receive` takes one frame and never waits. While ``inflight.is_stalled`` the caller stops reading, so that a
    sender that is faster than the broker is slowed by TCP.
    """

    socket: Socket
    gate: Gate
    session_id: str
    client_ip: str
    call_soon: Callable[[Callable[[], None]], object]
    user: tuple[int, str] | None = attrs.field(default=None, init=False)
    inflight: Inflight = attrs.field(init=False)
    _fence: Fence = attrs.field(init=False)
    _out: list[bytes] = attrs.field(factory=list, init=False)
    _rooms: dict[str, tuple[Subscription, asyncio.Task[None]]] = attrs.field(factory=dict, init=False)
    _expected: dict[Sent, str] = attrs.field(factory=dict, init=False)
    _arrivals: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight = Inflight(self.gate)
        self._fence = Fence(self.socket, self.inflight.reading_time, caught_up=self.inflight.caught_up)

    def receive(self, frame: str | bytes) -> None:
        """Handle one frame: an object or an array of objects, in order."""
        try:
            value = decode(frame)
        except Malformed as exc:
            self._error(None, exc)
            return
        for item in value if type(value) is list else (value,):
            self._handle(item)

    def hello_overdue(self) -> None:
        """Close unless a valid hello has come."""
        if self.user is None:
            self.socket.close(NO_HELLO, "no valid hello in time")

    def closed(self) -> None:
        """The connection has gone: leave every room. What was offered stays offered."""
        self._fence.close()
        for room_id in tuple(self._rooms):
            self._leave_room(room_id)
        for expected in tuple(self._expected):
            self._forget(expected)

    def answer(self, fields: Mapping[str, object]) -> None:
        """Send an object together with whatever else this tick answers."""
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
            self._fence.accepted(sent.room_id, sent.message_id)
        if not sent.wants_stored:
            self.inflight.settle()
            self._queue(_ack(sent.ref, message))

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
        self._queue(_ack(sent.ref, stored.message, stored.seq))

    def not_seen_stored(self, sent: Sent) -> None:
        """A send was accepted, but its commit was not seen in time."""
        del self._expected[sent]
        self.inflight.settle()
        self._error(sent.ref, NotSeenStored())

    def _handle(self, item: Any) -> None:
        if type(item) is not dict:
            self._error(None, Malformed("a frame is an object or an array of objects"))
            return
        ref = item.get("ref")
        try:
            if ref is not None and type(ref) not in (str, int):
                ref = None
                raise Malformed("ref must be a string or an integer")
            self._perform(item, ref)
        except ChatflowError as exc:
            self._error(ref, exc)

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
        limits = self.gate.limits
        self.user = (valid_user_id(item.get("userId"), limits), valid_username(item.get("username"), limits))
        self.answer(
            {
                "op": "welcome",
                **_ref(ref),
                "session": self.session_id,
                "userId": self.user[0],
                "username": self.user[1],
                "heartbeat": _number(self.gate.heartbeat_s),
            }
        )

    def _join(self, item: dict[str, Any], ref: object) -> None:
        room_id = self._room_of(item)
        since = item.get("since")
        if since is not None and (type(since) is not int or not 0 <= since <= SINCE_MAX):
            raise Malformed("since must be a sequence number, 0 or more")
        if room_id not in self._rooms and len(self._rooms) >= self.gate.rooms_per_connection:
            raise Denied("forbidden", f"at most {self.gate.rooms_per_connection} rooms per connection")
        self._leave_room(room_id)
        subscription = Subscription(self, ref, room_id)
        task = asyncio.get_running_loop().create_task(self._run_join(subscription, since))
        self._rooms[room_id] = (subscription, task)

    async def _run_join(self, subscription: Subscription, since: int | None) -> None:
        try:
            await self.gate.hub.join(subscription.room_id, subscription, since)
        except StoreError as exc:
            if (entry := self._rooms.get(subscription.room_id)) and entry[0] is subscription:
                del self._rooms[subscription.room_id]
            self._error(subscription.ref, exc)

    def _leave(self, item: dict[str, Any], ref: object) -> None:
        room_id = self._room_of(item)
        self._leave_room(room_id)
        self.answer({"op": "left", **_ref(ref), "room": room_id})

    def _leave_room(self, room_id: str) -> None:
        if entry := self._rooms.pop(room_id, None):
            subscription, task = entry
            task.cancel()
            self.gate.hub.leave(room_id, subscription)
            if not subscription.is_answered:
                self._error(subscription.ref, Superseded())

    def _send(self, item: dict[str, Any], ref: object, user_id: int, username: str) -> None:
        gate = self.gate
        gate.figures.messages_received += 1
        room_id = self._room_of(item)
        text = valid_text(item.get("text"), gate.limits, "text")
        own_id = valid_message_id(item.get("id"), "id")
        self._arrivals += 1
        sent = Sent(self, room_id, ref, self._arrivals, own_id, _wants_stored(item.get("ack")))
        now_us = gate.stamps.now_us()
        message = Message(
            own_id or gate.stamps.new_id(),
            room_id,
            user_id,
            username,
            text,
            "TEXT",
            now_us,
            now_us,
            gate.stamps.server_id,
            self.client_ip,
        )
        if not self._fence.admits(room_id, own_id):
            self._refuse(sent, Fenced())
            return
        if sent.wants_stored:
            self._expect(sent, message.message_id)
        try:
            gate.acceptor.offer(message, self, sent)
        except ChatflowError as exc:
            if sent.wants_stored:
                self._forget(sent)
            self._refuse(sent, exc)
        else:
            self.inflight.count += 1

    def _sender(self) -> tuple[int, str]:
        if self.user is None:
            raise Denied("unauthorized", "say hello first")
        return self.user

    def _expect(self, sent: Sent, message_id: str) -> None:
        self._expected[sent] = message_id
        self.gate.stored_acks.expect(message_id, sent)

    def _forget(self, sent: Sent) -> None:
        self.gate.stored_acks.forget(self._expected.pop(sent), sent)

    def _room_of(self, item: dict[str, Any]) -> str:
        room = item.get("room")
        if type(room) is not str:
            raise InvalidRoom(self.gate.limits.room_max)
        return normalise_room(room, self.gate.limits.room_max)

    def _refuse(self, sent: Sent, error: ChatflowError) -> None:
        if error.retryable:
            self._fence.refused(sent.room_id, sent.message_id, sent.arrival, fenced=type(error) is Fenced)
            if sent.message_id is not None:
                self._fence.sent(sent.room_id, sent.message_id)
        self._error(sent.ref, error)

    def _error(self, ref: object, error: ChatflowError) -> None:
        self.gate.figures.errors += 1
        self.answer(
            {
                "op": "error",
                **_ref(ref),
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


def _number(value: float) -> float:
    """Without a fraction if there is none: ``25``, which some clients read as an integer, and not ``25.0``."""
    return int(value) if value == int(value) else value


def _ref(ref: object) -> dict[str, object]:
    return {} if ref is None else {"ref": ref}


def _ack(ref: object, message: Message, seq: int | None = None) -> bytes:
    shown = "" if ref is None else f'"ref":{ref},' if type(ref) is int else f'"ref":{encode_json(ref).decode()},'
    stored = "" if seq is None else f',"seq":{seq}'
    at = format_timestamp(message.accepted_at_us)
    return f'{{"op":"ack",{shown}"id":"{message.message_id}","at":"{at}"{stored}}}'.encode()


def _wants_stored(value: object) -> bool:
    if value is None or value == "durable":
        return False
    if value == "stored":
        return True
    raise InvalidMessage("ack must be durable or stored")
