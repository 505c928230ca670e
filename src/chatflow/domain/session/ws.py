"""``/ws``: one connection, many rooms. Items are handled in order; answers are collected once per event-loop turn."""

import sys
from collections.abc import Sequence
from typing import Any

import attrs

from chatflow.domain.messages.errors import Malformed
from chatflow.domain.session.answers import left
from chatflow.domain.session.effects import Timer
from chatflow.domain.session.errors import NO_HELLO, POLICY, Denied
from chatflow.domain.session.hello import Hello
from chatflow.domain.session.joins import Joins
from chatflow.domain.session.pacing import ANSWER_S, JOIN_S
from chatflow.domain.session.rates import Action, closing
from chatflow.domain.session.sends import SendingSession
from chatflow.domain.session.violations import Violations
from chatflow.ports.errors import ChatflowError

EARLY_FRAMES = 32
"""Before hello; one more closes the connection."""

ITEM_BYTES = 64
SINCE_MAX = 2**63 - 1


@attrs.define(eq=False)
class WsSession(SendingSession):
    """The state of one ``/ws`` connection.

    A long frame may be handled in slices; until the last one it has arrived and is not handled.
    """

    session_id: str
    joins: Joins = attrs.field(init=False)
    hello: Hello = attrs.field(init=False)
    _frame: Sequence[Any] = attrs.field(default=(), init=False)
    _at: int = attrs.field(default=0, init=False)
    _early_frames: int = attrs.field(default=0, init=False)
    _violations: Violations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.joins = Joins(self)
        self._violations = Violations(self.context.clock, self.context.protocol_errors_max)
        self.effects.append(Timer(self.context.hello_timeout_s, self.hello_overdue))
        self.rates.abused = closing(self.end, POLICY)
        self.hello = Hello(self, self.session_id, self.joins, self.fault)

    def receive(self, value: Any, size: int, most: int = sys.maxsize) -> int:
        """Handle one frame, an object or an array of objects in order; see `Session.receive`."""
        self.uncharged_bytes = size
        if (self.user is None or self.is_ended) and not self._admits_early():
            return 0
        if type(value) is not list:
            self._handle(value)
            return 0
        if not value:
            self.charge(0.0)
        self._frame, self._at = value, 0
        return self.go_on(most)

    def receive_malformed(self, size: int) -> None:
        """See `Session.receive_malformed`."""
        self.uncharged_bytes = size
        if (self.user is not None and not self.is_ended) or self._admits_early():
            self.fault(None, Malformed("malformed JSON"))

    def go_on(self, most: int) -> int:
        """See `Session.go_on`."""
        frame, at, debt = self._frame, self._at, self.inflight.debt
        end = min(len(frame), at + most)
        while at < end and not (self.is_ended or debt.is_due or self.is_waiting):
            self._handle(frame[at])
            at += 1
        self._at = at
        remaining = 0 if self.is_ended else len(self._frame) - self._at
        if not remaining:
            self._frame, self._at = (), 0
        return remaining

    def held_bytes(self) -> int:
        """See `Session.held_bytes`: answers that wait leave in this turn."""
        return (len(self._frame) - self._at) * ITEM_BYTES

    def hello_overdue(self) -> None:
        """Close unless a valid hello has come."""
        if self.user is None:
            self.disconnect(NO_HELLO, "no valid hello in time")

    def closed(self) -> None:
        """The connection has gone: leave every room. What was offered stays offered."""
        super().closed()
        self.joins.leave_all()
        self.forget_all()

    def _admits_early(self) -> bool:
        """Whether to look at a frame before hello, of which few may come, or after the end, where none is."""
        self.charge(0.0)
        self._early_frames += 1
        if self._early_frames > EARLY_FRAMES:
            self._end_without_hello()
        return not self.is_ended

    def _handle(self, item: Any) -> None:
        if type(item) is not dict:
            self.fault(None, Malformed("a frame is an object or an array of objects"))
            return
        ref = item.get("ref")
        try:
            if ref is not None and type(ref) not in (str, int):
                ref = None
                raise Malformed("ref must be a string or an integer")
            self._perform(item, ref)
        except ChatflowError as exc:
            self.fault(ref, exc)

    def _perform(self, item: dict[str, Any], ref: object) -> None:
        match item.get("op"):
            case "send":
                self.send(item, ref, *self._sender())
            case "join":
                self._sender()
                self._join(item, ref)
            case "leave":
                self._sender()
                self._leave(item, ref)
            case "hello":
                self.hello.say(item, ref)
            case "refresh":
                self._sender()
                self.hello.refresh(item, ref)
            case _:
                raise Malformed("op must be hello, join, leave, send or refresh")

    def _join(self, item: dict[str, Any], ref: object) -> None:
        room_id = self.room_of(item)
        since = item.get("since")
        if since is not None and (type(since) is not int or not 0 <= since <= SINCE_MAX):
            raise Malformed("since must be a sequence number, 0 or more")
        if self.access is not None:
            self.access.check_read(room_id)
        self.joins.check_room_for(room_id)
        self.charge(JOIN_S)
        self.rates.spend(Action.JOIN)
        self.joins.join(room_id, ref, since)

    def _leave(self, item: dict[str, Any], ref: object) -> None:
        room_id = self.room_of(item)
        self.charge(ANSWER_S)
        self.joins.leave(room_id)
        self.answer(left(ref, room_id))

    def _sender(self) -> tuple[int, str]:
        if self.user is None:
            raise Denied("unauthorized", "say hello first")
        return self.user

    def fault(self, ref: object, error: ChatflowError) -> None:
        """Answer what cannot be done as asked; a peer that does not speak the protocol is closed in the end."""
        self.charge(ANSWER_S)
        self.note_denial(error)
        self.error(ref, error)
        if self._violations.add(error):
            if self.user is None:
                self._end_without_hello()
            else:
                self.end(POLICY, "too many errors")

    def _end_without_hello(self) -> None:
        self.end(NO_HELLO, "too much before hello")
