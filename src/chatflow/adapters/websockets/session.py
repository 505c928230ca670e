"""``/ws``: one connection, many rooms. Frames in order, answers coalesced per event-loop tick."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from chatflow.adapters.websockets.fence import Fence
from chatflow.adapters.websockets.frames import array_frames, decode, encode_json, session_frames
from chatflow.adapters.websockets.gate import Denied, Fenced, Gate, Inflight, error_code, error_text
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

    def joined(self, room_id: str, head: int, recovered: bool) -> None:
        """See `Subscriber.joined`."""
        self.session.answer({"op": "joined", **_ref(self.ref), "room": room_id, "head": head, "recovered": recovered})

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See `Subscriber.deliver`; answers that wait go out first."""
        self.session.deliver(frames)

    async def drained(self) -> bool:
        """See `Subscriber.drained`."""
        return await self.session.socket.drained()


@attrs.frozen(eq=False)
class StoredRef:
    """A send whose ack comes after the commit."""

    session: "Session"
    ref: object

    def told(self, stored: StoredMessage) -> None:
        """It is committed: answer with its ``seq``."""
        self.session.stored(self, stored)


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
    _expected: dict[StoredRef, str] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._fence = Fence(self.socket, self.gate.clock)
        self.inflight = Inflight(self.gate)

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
        if type(ref) is not StoredRef:
            self.inflight.settle()
            self._queue(_ack(ref, message))

    def stored(self, expected: StoredRef, stored: StoredMessage) -> None:
        """The commit that a send asked to hear of."""
        del self._expected[expected]
        self.inflight.settle()
        self._queue(_ack(expected.ref, stored.message, stored.seq))

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        if type(ref) is StoredRef:
            if ref not in self._expected:
                return  # it was stored all the same, and the sender knows
            self._forget(ref)
            ref = ref.ref
        self.inflight.settle()
        self._refuse(message.room_id, ref, error)

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
                "heartbeat": self.gate.heartbeat_s,
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
            entry[1].cancel()
            self.gate.hub.leave(room_id, entry[0])

    def _send(self, item: dict[str, Any], ref: object, user_id: int, username: str) -> None:
        gate = self.gate
        gate.figures.messages_received += 1
        room_id = self._room_of(item)
        text = valid_text(item.get("text"), gate.limits, "text")
        message_id = valid_message_id(item.get("id"), "id") or gate.stamps.new_id()
        wants_stored = _wants_stored(item.get("ack"))
        now_us = gate.stamps.now_us()
        message = Message(
            message_id, room_id, user_id, username, text, "TEXT", now_us, now_us, gate.stamps.server_id, self.client_ip
        )
        if room_id in self._fence:
            self._refuse(room_id, ref, Fenced())
        elif wants_stored:
            self._offer(message, self._expect(message_id, ref), ref)
        else:
            self._offer(message, ref, ref)

    def _offer(self, message: Message, sink_ref: Ref, ref: object) -> None:
        try:
            self.gate.acceptor.offer(message, self, sink_ref)
        except ChatflowError as exc:
            if type(sink_ref) is StoredRef:
                self._forget(sink_ref)
            self._refuse(message.room_id, ref, exc)
        else:
            self.inflight.count += 1

    def _sender(self) -> tuple[int, str]:
        if self.user is None:
            raise Denied("unauthorized", "say hello first")
        return self.user

    def _expect(self, message_id: str, ref: object) -> StoredRef:
        expected = StoredRef(self, ref)
        self._expected[expected] = message_id
        self.gate.stored_acks.expect(message_id, expected.told)
        return expected

    def _forget(self, expected: StoredRef) -> None:
        self.gate.stored_acks.forget(self._expected.pop(expected), expected.told)

    def _room_of(self, item: dict[str, Any]) -> str:
        room = item.get("room")
        if type(room) is not str:
            raise InvalidRoom(self.gate.limits.room_max)
        return normalise_room(room, self.gate.limits.room_max)

    def _refuse(self, room_id: str, ref: object, error: ChatflowError) -> None:
        if error.retryable:
            self._fence.refused(room_id)
        self._error(ref, error)

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
