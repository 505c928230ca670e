"""Sends of ``/ws``: from an item to an offer, and from its fate to an answer."""

from typing import Any, cast

import attrs

from chatflow.domain.ingest.pending import Ref
from chatflow.domain.messages.conflicts import conflicts
from chatflow.domain.messages.errors import Conflict, InvalidMessage, InvalidRoom
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.messages.validation import valid_message_id, valid_text
from chatflow.domain.session.answers import Answer, failed
from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import NotSeenStored, OutOfTurn
from chatflow.domain.session.pacing import ANSWER_S, BYTE_S, FRAME_S
from chatflow.domain.session.rates import Action
from chatflow.ports.errors import ChatflowError
from chatflow.ports.messages import Message, StoredMessage


@attrs.define(eq=False)
class Sent:
    """A send that has no answer yet.

    Attributes:
        arrival: its place among all sends of the connection.
        message_id: the sender's own, ``None`` when it gave none and so cannot repeat it.
        wants_stored: the ack comes after the commit.
    """

    session: "SendingSession"
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
class SendingSession(Session):
    """The sends of one connection, and the answers that wait.

    Attributes:
        user: id and name, once a valid hello has come.
        answers: not taken yet.
        uncharged_bytes: of the frame under way, until its first item that is not a send is charged.
    """

    user: tuple[int, str] | None = attrs.field(default=None, init=False)
    answers: list[Answer] = attrs.field(factory=list, init=False)
    uncharged_bytes: int = attrs.field(default=0, init=False)
    _expected: dict[Sent, Message] = attrs.field(factory=dict, init=False)
    _unwritten: int = attrs.field(default=0, init=False)

    def take_answers(self) -> list[Answer]:
        """See `Session.take_answers`."""
        answers, self.answers = self.answers, []
        if self._unwritten:
            count, self._unwritten = self._unwritten, 0
            self.inflight.settle(count)
        return answers

    def answer(self, answer: Answer) -> None:
        """Answer with the next answers; counts until it is written."""
        self.inflight.count += 1
        self._unwritten += 1
        self._queue(answer)

    def error(self, ref: object, error: ChatflowError) -> None:
        """Answer that something cannot be done."""
        self.context.metrics.errors += 1
        if type(error) is Conflict:
            self.context.metrics.conflicts += 1
        if not error.retryable:
            self.rates.spend(Action.ERROR)
        self.answer(failed(ref, error))

    def send(self, item: dict[str, Any], ref: object, user_id: int, username: str) -> None:
        """Take a message in, or refuse it; its answer comes later.

        Raises:
            InvalidMessage, InvalidRoom: a field breaks a rule.
            Denied: the token does not cover the room.
            Conflict: the id stands for another message.
        """
        context = self.context
        context.metrics.messages_received += 1
        room_id = self.room_of(item)
        text = valid_text(item.get("text"), context.limits, "text")
        own_id = valid_message_id(item.get("id"), "id")
        if (access := self.access) is not None:
            access.check_write(room_id)
        self.arrivals += 1
        if self.arrivals >= self.rates.next_look:
            self.rates.sent()
        sent = Sent(self, room_id, ref, self.arrivals, own_id, wants_stored(item.get("ack")))
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
        if own_id is not None and not sent.wants_stored:
            context.recent_ids.check(message)
        if self.guard.is_active and not self.guard.admits(room_id, own_id):
            self.charge(ANSWER_S)
            self._refuse(sent, OutOfTurn())
            return
        if context.quotas.are_written:
            context.quotas.write(self.writer, message)
        if sent.wants_stored:
            self._expected[sent] = message
            context.stored_acks.expect(message.key, sent)
        try:
            context.publisher.offer(message, self, sent)
        except ChatflowError as exc:
            if sent.wants_stored:
                self._forget(sent)
            self.charge(ANSWER_S)
            self._refuse(sent, exc)
        else:
            self.inflight.count += 1

    def accepted(self, message: Message, ref: Ref) -> None:
        """See `Sink.accepted`."""
        sent = cast("Sent", ref)
        if sent.message_id is not None and self.guard.is_active:
            self.guard.accepted(sent.room_id, sent.message_id)
        if not sent.wants_stored:
            self.inflight.settle()
            if not (answers := self.answers):
                self.wake()
            answers.append((sent.ref, message, None))

    def refused(self, message: Message, ref: Ref, error: ChatflowError) -> None:
        """See `Sink.refused`."""
        sent = cast("Sent", ref)
        if not error.retryable and sent.message_id is not None and self.guard.is_active:
            self.guard.accepted(sent.room_id, sent.message_id)  # it is settled, and holds nothing up
        if sent.wants_stored:
            if sent not in self._expected:
                return  # it was stored all the same, and the sender knows
            self._forget(sent)
        self.inflight.settle()
        self._refuse(sent, error)

    def stored(self, sent: Sent, stored: StoredMessage) -> None:
        """A send was committed whose sender waits for that, or another message of the same key was before."""
        message = self._expected.pop(sent)
        self.inflight.settle()
        if sent.message_id is not None:
            self.context.recent_ids.learn(stored.message)
        if conflicts(message, stored.message):
            self.error(sent.ref, Conflict())
        else:
            self._queue((sent.ref, stored.message, stored.seq))

    def not_seen_stored(self, sent: Sent) -> None:
        """A send was accepted, but its commit was not seen in time."""
        del self._expected[sent]
        self.inflight.settle()
        self.error(sent.ref, NotSeenStored())

    def room_of(self, item: dict[str, Any]) -> str:
        """The room id that an item names.

        Raises:
            InvalidRoom: none, or not a room name.
        """
        room = item.get("room")
        if type(room) is not str:
            raise InvalidRoom(self.context.limits.room_max)
        return normalise_room(room, self.context.limits.room_max)

    def charge(self, cost_s: float) -> None:
        """Charge an item that is not a send, and its frame with the first of them."""
        if size := self.uncharged_bytes:
            cost_s += FRAME_S + size * BYTE_S
            self.uncharged_bytes = 0
        self.inflight.charge_answer(cost_s)

    def forget_all(self) -> None:
        """Nobody waits for a commit any more."""
        for expected in tuple(self._expected):
            self._forget(expected)

    def _forget(self, sent: Sent) -> None:
        self.context.stored_acks.forget(self._expected.pop(sent).key, sent)

    def _refuse(self, sent: Sent, error: ChatflowError) -> None:
        if error.retryable:
            self.guard.refused(sent.room_id, sent.message_id, sent.arrival, out_of_turn=type(error) is OutOfTurn)
            if sent.message_id is not None:
                self.guard.sent(sent.room_id, sent.message_id)
        self.error(sent.ref, error)

    def _queue(self, answer: Answer) -> None:
        if not self.answers:
            self.wake()
        self.answers.append(answer)


def wants_stored(value: object) -> bool:
    """What a send says of the ack that it wants.

    Raises:
        InvalidMessage: neither durable nor stored.
    """
    if value is None or value == "durable":
        return False
    if value == "stored":
        return True
    raise InvalidMessage("ack must be durable or stored")
