"""Sessions with tokens, whatever comes in which order: nothing is taken that the token of the moment forbids."""

from collections import deque
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatflow.domain.permissions import grant_of, may_read, may_write
from chatflow.domain.session.effects import Authenticate, Close, Join, Leave, Timer
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import IdentityUnavailable, TokenFault, TokenRefused
from chatflow.ports.identity import Principal
from tests.harness.clock import FakeClock
from tests.unit.fakes import EPOCH_US, message_id
from tests.unit.session_fakes import ROOMS, ScriptedPublisher, context_over

grants = st.lists(
    st.builds(grant_of, st.sampled_from([*ROOMS, "l*", "*"]), st.sampled_from(["r", "w", "rw"])), max_size=2
).map(tuple)
seconds = st.sampled_from([1, 5, 30, 60])


class TokenMachine(RuleBasedStateMachine):
    """One ``/ws`` session. Its shell answers tokens late, and calls it only while it is not stalled."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us, self.ids, self.refs = EPOCH_US, 0, 0
        self.clock, self.publisher = FakeClock(), ScriptedPublisher()
        self.context = context_over(
            self.publisher, self.clock, self.new_id, lambda: self.now_us, authenticator=object(), revocations=self
        )
        self.revoked: set[int] = set()
        self.asked: list[Authenticate] = []
        self.timers: list[tuple[int, Timer]] = []
        self.joined: dict[str, Join] = {}
        self.rest: deque[dict[str, Any]] = deque()
        self.allowed: Principal | None = None
        self.user_id: int | None = None
        self.unanswered: set[int] = set()
        self.closed: Close | None = None

    @initialize(
        token=st.sampled_from([None, None, "t"]), grants=grants, is_welcome=st.sampled_from([True, True, False])
    )
    def connect(self, token: str | None, grants: tuple[Any, ...], is_welcome: bool) -> None:
        self.session = WsSession(self.context, "10.0.0.1", "s", token=token)
        self.perform()
        if is_welcome:
            self.offer({"op": "hello", **({} if token else {"token": "t"})})
            self.accept(7, grants, 60, admin=False)

    def new_id(self) -> str:
        self.ids += 1
        return message_id(self.ids)

    def is_revoked(self, principal: Principal) -> bool:
        return principal.user_id in self.revoked

    def perform(self) -> None:
        while self.session.effects:
            match effect := self.session.effects.pop(0):
                case Authenticate():
                    assert not self.asked
                    self.asked.append(effect)
                case Timer(delay_s=delay_s):
                    self.timers.append((self.now_us + int(delay_s * 1_000_000), effect))
                case Close():
                    assert self.closed is None
                    self.closed = effect
                case Join():
                    assert self.allowed is not None
                    assert may_read(self.allowed, effect.room_id)
                    self.joined[effect.room_id] = effect
                case Leave(join=join):
                    assert self.joined.pop(join.room_id) is join

    def offer(self, *items: dict[str, Any]) -> None:
        """What the reader of a connection does: one frame after the other, none while the session is stalled."""
        self.rest.extend({"ref": self.ref(), **item} for item in items)
        self.read_on()

    def read_on(self) -> None:
        while self.rest and not self.asked and self.closed is None:
            item = self.rest.popleft()
            self.unanswered.add(item["ref"])
            before = {room: len(waiting) for room, waiting in self.publisher.waiting.items()}
            self.session.receive(item, 50)
            self.session.inflight.debt.is_due = False
            self.perform()
            for room, count in before.items():
                if len(self.publisher.waiting[room]) > count:
                    assert self.allowed is not None
                    assert may_write(self.allowed, room)
                    assert self.allowed.expires_at * 1_000_000 > self.now_us
                    message = self.publisher.waiting[room][-1][0]
                    assert (message.user_id, message.username) == (self.allowed.user_id, self.allowed.username)

    def ref(self) -> int:
        self.refs += 1
        return self.refs

    @rule(op=st.sampled_from(["refresh", "refresh", "hello"]), claim=st.sampled_from([{}, {}, {"userId": 8}]))
    def bring_a_token(self, op: str, claim: dict[str, int]) -> None:
        self.offer({"op": op, "token": "t", **claim})

    @rule(room=st.sampled_from(ROOMS), count=st.integers(1, 3), own_id=st.booleans())
    def send(self, room: str, count: int, own_id: bool) -> None:
        more = {"id": message_id(500)} if own_id else {}
        self.offer(*({"op": "send", "room": room, "text": "hi", **more} for _ in range(count)))

    @rule(op=st.sampled_from(["join", "leave"]), room=st.sampled_from(ROOMS))
    def go(self, op: str, room: str) -> None:
        self.offer({"op": op, "room": room})

    @precondition(lambda self: self.asked)
    @rule(
        user=st.sampled_from([7, 7, 7, 8]),
        grants=grants,
        left_s=seconds,
        admin=st.sampled_from([False, False, False, True]),
    )
    def accept(self, user: int, grants: tuple[Any, ...], left_s: int, admin: bool) -> None:
        principal = Principal(user, f"user{user}", grants, self.now_us / 1_000_000 + left_s, is_admin=admin)
        was = self.session.access
        asked = self.asked.pop()
        before, self.allowed = self.allowed, principal
        asked.answered(principal)
        if self.session.access is was:
            self.allowed = before
        self.perform()
        self.read_on()

    @precondition(lambda self: self.asked)
    @rule(error=st.sampled_from([TokenRefused(TokenFault.EXPIRED), IdentityUnavailable("down")]))
    def refuse(self, error: Any) -> None:
        self.asked.pop().failed(error)
        self.perform()
        self.read_on()

    @rule(left_s=st.sampled_from([0.1, 0.5, 1, 4]))
    def pass_time(self, left_s: float) -> None:
        """As much of it as there is until the next timer, and then that one, and so on."""
        end = self.now_us + int(left_s * 1_000_000)
        while due := [entry for entry in self.timers if entry[0] <= end]:
            entry = min(due, key=lambda each: each[0])
            self.timers.remove(entry)
            self.now_us = max(self.now_us, entry[0])
            entry[1].expired()
            self.perform()
        self.now_us = end

    @rule(user=st.sampled_from([8, 8, 8, 8, 7]), is_meant=st.booleans())
    def revoke(self, user: int, is_meant: bool) -> None:
        if not is_meant:
            return
        self.revoked.add(user)
        self.context.roster.disconnect(self.is_revoked, 4403, "revoked")
        self.perform()

    @rule(room=st.sampled_from(ROOMS))
    def confirm(self, room: str) -> None:
        while self.publisher.waiting[room]:
            self.publisher.accept(room)
        for join in tuple(self.joined.values()):
            if not join.is_answered:
                self.session.joins.joined(join, 5, recovered=True)
        for answer in self.session.take_answers():
            ref = answer[0] if type(answer) is tuple else answer.get("ref")
            if ref is not None:
                self.unanswered.remove(ref)

    @invariant()
    def nothing_counts_below_zero(self) -> None:
        assert not hasattr(self, "session") or self.session.inflight.count >= 0

    @invariant()
    def whoever_is_in_was_let_in(self) -> None:
        if not hasattr(self, "session") or self.closed is not None:
            return
        if self.session.user is not None:
            self.user_id = self.user_id or self.session.user[0]
            assert self.session.user[0] == self.user_id
            assert self.allowed is not None
            assert self.allowed.expires_at * 1_000_000 > self.now_us
            assert self.allowed.user_id not in self.revoked
            assert all(may_read(self.allowed, room) for room in self.joined)
        assert len(self.timers) <= 2 + self.refs

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        for room in ROOMS:
            self.confirm(room=room)
        if self.closed is None and not self.asked:
            assert not self.unanswered
            assert self.session.inflight.count == 0
        self.session.closed()
        assert len(self.context.roster) == 0


class TestTokens(TokenMachine.TestCase):
    settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
