"""Both protocols without an event loop: whatever comes in which order, every frame is answered once and in order.

Hypothesis plays the peer, the broker, the network and the clock. The machines have no task and no socket, so a run is
a sequence of plain calls.
"""

from collections import deque
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from chatflow.domain.messages.errors import Conflict
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.core import Session
from chatflow.domain.session.effects import Close, Join, Leave, Timer
from chatflow.domain.session.resend_guard import Echo
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import BrokerFull, BrokerUnavailable, ChatflowError, StoreUnavailable
from tests.unit.fakes import FakeClock, live, message_id
from tests.unit.session_fakes import ROOMS, ScriptedPublisher, context_over

NONE, NEW, OLD = "none", "new", "old"


class Machine(RuleBasedStateMachine):
    """What both protocols have in common: one peer, its gateway, and the way back of its echoes."""

    echoes = Bundle("echoes")
    session: Session

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.publisher, self.numbers, self.wakes = FakeClock(), ScriptedPublisher(), 0, 0
        self.context = context_over(self.publisher, self.clock, self.new_id)
        self.timers: list[Timer] = []
        self.is_closed = False

    def new_id(self) -> str:
        self.numbers += 1
        return message_id(self.numbers)

    def some_id(self, which: str) -> str:
        """A new one, or that of any message before."""
        return message_id(self.numbers // 2 + 1) if which == OLD else self.new_id()

    def begin(self, session: Session) -> None:
        self.session = session
        session.wake = self.woken
        self.perform()

    def woken(self) -> None:
        self.wakes += 1

    def flush(self) -> Any:
        self.wakes = 0
        answers = self.session.take_answers()
        self.perform()
        return answers

    def perform(self) -> None:
        while self.session.effects:
            effect = self.session.effects.pop(0)
            match effect:
                case Timer():
                    self.timers.append(effect)
                case Close():
                    self.is_closed = True
                case Join() | Leave():
                    self.subscribe(effect)

    def subscribe(self, effect: Join | Leave) -> None:
        raise AssertionError("only /ws joins")

    @rule(room=st.sampled_from(ROOMS))
    def accept(self, room: str) -> None:
        if self.publisher.waiting[room]:
            self.publisher.accept(room)

    @rule(
        room=st.sampled_from(ROOMS), error=st.sampled_from([BrokerUnavailable("down"), BrokerFull("full"), Conflict()])
    )
    def refuse(self, room: str, error: ChatflowError) -> None:
        self.publisher.refuse(room, error)

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        self.publisher.full = full

    @rule(seconds=st.sampled_from([0.1, 1.5, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        self.timers.pop(data.draw(st.integers(0, len(self.timers) - 1))).expired()
        self.perform()

    @rule(target=echoes)
    def answer(self) -> Any:
        self.read(self.flush())
        guard = self.session.guard
        echo = guard.take_echo() if guard.is_active else None
        return multiple() if echo is None else echo

    @rule(echo=echoes)
    def echoed(self, echo: Echo) -> None:
        self.session.guard.echoed(echo)

    def read(self, answers: Any) -> None:
        raise NotImplementedError

    def settle_everything(self) -> None:
        for room in ROOMS:
            while self.publisher.waiting[room]:
                self.publisher.accept(room)
        self.read(self.flush())

    @invariant()
    def nothing_counts_below_zero(self) -> None:
        assert self.session.inflight.count >= 0
        assert self.session.inflight.held_bytes >= 0


class ChatMachine(Machine):
    """``/chat``: exactly one reply per frame, in the order of the frames."""

    @initialize()
    def connect(self) -> None:
        self.begin(ChatSession(self.context, "10.0.0.1", "lobby"))
        self.unanswered: deque[bytes] = deque()
        self.frames = 0

    @rule(own_id=st.sampled_from([NONE, NEW, OLD]), text=st.sampled_from(["hi", "ho"]), is_valid=st.booleans())
    def say(self, own_id: str, text: str, is_valid: bool) -> None:
        self.frames += 1
        original = b'{"n":%d}' % self.frames
        fields: dict[str, object] = {
            "userId": 7 if is_valid else 0,
            "username": "ada",
            "message": text,
            "messageType": "TEXT",
            "timestamp": "2026-11-24T01:31:00Z",
        }
        own = {} if own_id == NONE else {"messageId": self.some_id(own_id)}
        self.unanswered.append(original)
        self.session.receive((fields | own, original), 100)

    @rule()
    def say_nonsense(self) -> None:
        self.unanswered.append(b"null")
        self.session.receive_malformed(5)

    def read(self, answers: Any) -> None:
        for reply in answers:
            assert reply.original == self.unanswered.popleft()
            at_us, accepted_id, error = reply.fate
            assert at_us
            assert (accepted_id is None) == bool(error)

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.settle_everything()
            assert not self.unanswered
            assert self.session.inflight.count == 0
            assert self.session.inflight.held_bytes == 0
            assert self.wakes == 0


class WsMachine(Machine):
    """``/ws``: every item is answered exactly once; what waits has announced itself."""

    @initialize()
    def connect(self) -> None:
        self.session = WsSession(self.context, "10.0.0.1", "s")
        self.begin(self.session)
        self.unanswered: set[int] = set()
        self.refs = 0
        self.joining: list[Join] = []
        self.session.receive({"op": "hello", "userId": 7, "username": "ada"}, 40)
        assert [answer["op"] for answer in self.flush()] == ["welcome"]

    def item(self, **fields: object) -> dict[str, object]:
        self.refs += 1
        self.unanswered.add(self.refs)
        return {"ref": self.refs, **fields}

    def hand_over(self, *items: object) -> None:
        left = self.session.receive(list(items), 50 * len(items), 2)
        while left:
            self.session.inflight.debt.is_due = False
            left = self.session.go_on(2)
        self.session.inflight.debt.is_due = False
        self.perform()

    @rule(
        room=st.sampled_from(ROOMS),
        ack=st.sampled_from(["durable", "stored"]),
        own_id=st.sampled_from([NONE, NEW, OLD]),
        text=st.sampled_from(["hi", "ho"]),
        count=st.integers(1, 5),
    )
    def send(self, room: str, ack: str, own_id: str, text: str, count: int) -> None:
        self.hand_over(
            *(
                self.item(op="send", room=room, text=text, ack=ack, **own)
                for own in [{} if own_id == NONE else {"id": self.some_id(own_id)} for _ in range(count)]
            )
        )

    @rule(room=st.sampled_from([*ROOMS, "a b"]), op=st.sampled_from(["join", "leave", "shout"]))
    def ask(self, room: str, op: str) -> None:
        self.hand_over(self.item(op=op, room=room))

    def subscribe(self, effect: Join | Leave) -> None:
        if isinstance(effect, Join):
            assert effect.room_id not in [join.room_id for join in self.joining]
            self.joining.append(effect)
        elif effect.join in self.joining:
            self.joining.remove(effect.join)

    @precondition(lambda self: self.joining)
    @rule(works=st.booleans())
    def end_join(self, works: bool) -> None:
        join = self.joining.pop(0)
        if works:
            self.session.joins.joined(join, 5, recovered=True)
        else:
            self.session.joins.failed(join, StoreUnavailable("down"))

    @rule(room=st.sampled_from(ROOMS), is_early=st.booleans())
    def commit(self, room: str, is_early: bool = False) -> None:
        """Of what was accepted, or before that is known."""
        early = [message for message, _, _ in self.publisher.waiting[room]] if is_early else []
        stored = self.context.stored_acks.reader.put(*self.publisher.accepted[room], *early)
        self.context.stored_acks.on_live(live(stored))

    @invariant()
    def what_waits_has_announced_itself(self) -> None:
        if hasattr(self, "session") and self.session.answers:
            assert self.wakes

    def read(self, answers: Any) -> None:
        for answer in answers:
            self.unanswered.remove(answer[0] if type(answer) is tuple else answer["ref"])

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        self.settle_everything()
        while self.joining:
            self.end_join(works=True)
        for room in ROOMS:
            self.commit(room)
        self.read(self.flush())
        assert not self.unanswered
        assert self.session.inflight.count == 0
        assert len(self.context.stored_acks) == 0
        self.session.closed()
        assert not self.is_closed


class OrderMachine(Machine):
    """A sender that repeats by id, oldest first, is stored in its order, whatever is refused.

    It keeps to the protocol: it repeats at once what it reads to be refused, in the order of its first sending.
    """

    @initialize(protocol=st.sampled_from(["ws", "chat"]))
    def connect(self, protocol: str) -> None:
        if protocol == "chat":
            self.begin(ChatSession(self.context, "10.0.0.1", "lobby"))
        else:
            self.begin(WsSession(self.context, "10.0.0.1", "s"))
            self.session.receive({"op": "hello", "userId": 7, "username": "ada"}, 40)
            self.flush()
        self.under_way: deque[str] = deque()
        self.refused: list[str] = []

    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.write(self.new_id())

    def write(self, own_id: str) -> None:
        self.under_way.append(own_id)
        if isinstance(self.session, ChatSession):
            fields = {"userId": 7, "username": "ada", "message": "hi", "messageType": "TEXT", "messageId": own_id}
            self.session.receive((fields | {"timestamp": "2026-11-24T01:31:00Z"}, own_id.encode()), 100)
        else:
            self.session.receive({"op": "send", "ref": own_id, "room": "lobby", "text": "hi", "id": own_id}, 100)

    def pass_time(self) -> None:
        """It never takes longer to repeat than it may."""

    def expire(self) -> None:
        """No timer runs out either."""

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        for _ in range(count):
            super().accept("lobby")

    @rule()
    def refuse(self) -> None:
        super().refuse("lobby", BrokerUnavailable("down"))

    def read(self, answers: Any) -> None:
        for answer in answers:
            own_id, is_refused = self.outcome_of(answer)
            self.under_way.remove(own_id)
            if is_refused:
                self.refused.append(own_id)
        if not self.under_way:
            again, self.refused = sorted(self.refused), []
            for own_id in again:
                self.write(own_id)

    def outcome_of(self, answer: Any) -> tuple[str, bool]:
        if isinstance(self.session, ChatSession):
            return answer.original.decode(), answer.fate[1] is None
        return (answer[0], False) if type(answer) is tuple else (answer["ref"], True)

    @invariant()
    def what_was_accepted_is_in_order(self) -> None:
        accepted = [message.message_id for message in self.publisher.accepted["lobby"]]
        assert accepted == sorted(accepted)


class TestChat(ChatMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestWs(WsMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestOrder(OrderMachine.TestCase):
    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
