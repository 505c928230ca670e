"""Sessions that need a token, without an event loop: each call decides at once."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from chatflow.domain.permissions import grant_of
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.core import Session
from chatflow.domain.session.effects import Authenticate, Close, Follow, Join, Leave, Timer
from chatflow.domain.session.feed import FeedSession
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import IdentityUnavailable, TokenFault, TokenRefused
from chatflow.ports.identity import Principal
from tests.harness.clock import FakeClock
from tests.unit.fakes import EPOCH_US, message_id
from tests.unit.session_fakes import ScriptedPublisher, context_over

NOW = EPOCH_US / 1_000_000
ADA = Principal(7, "ada", (grant_of("lobby", "rw"), grant_of("den", "r"), grant_of("box", "w")), NOW + 60, token_id="t")
ROOT = Principal(1, "root", (), NOW + 60, is_admin=True)


class Unasked:
    """What a session asks, the test answers."""


@attrs.define
class Wall:
    """The time of day, and who was shut out."""

    us: int = EPOCH_US
    revoked: set[int] = attrs.field(factory=set)

    def __call__(self) -> int:
        return self.us

    def is_revoked(self, principal: Principal) -> bool:
        return principal.user_id in self.revoked


@attrs.define
class Peer:
    session: Session
    wall: Wall
    publisher: ScriptedPublisher
    asked: list[Authenticate] = attrs.field(factory=list)
    timers: list[Timer] = attrs.field(factory=list)
    rooms: list[Join | Leave | Follow] = attrs.field(factory=list)
    closed: tuple[int, str] | None = None

    def perform(self) -> None:
        while self.session.effects:
            match effect := self.session.effects.pop(0):
                case Authenticate():
                    self.asked.append(effect)
                case Timer():
                    self.timers.append(effect)
                case Close(code=code, reason=reason):
                    self.closed = code, reason
                case _:
                    self.rooms.append(effect)

    def say(self, *items: dict[str, Any]) -> int:
        left = self.session.receive(items[0] if len(items) == 1 else list(items), 50)
        self.perform()
        return left

    def answer(self, answer: Principal | TokenRefused | IdentityUnavailable) -> None:
        asked = self.asked.pop(0)
        asked.answered(answer) if isinstance(answer, Principal) else asked.failed(answer)
        self.perform()

    def read(self) -> list[Any]:
        return list(self.session.take_answers())

    def hello(self, principal: Principal = ADA, **more: Any) -> dict[str, Any]:
        self.say({"op": "hello", "token": "x", **more})
        self.answer(principal)
        return self.read()[0]

    def pass_time(self, seconds: float) -> None:
        """The wall clock moves, and every timer that was set goes off."""
        self.wall.us += int(seconds * 1_000_000)
        timers, self.timers = self.timers, []
        for timer in timers:
            timer.expired()
        self.perform()

    @property
    def sent(self) -> list[str]:
        return [message.text for waiting in self.publisher.waiting.values() for message, _, _ in waiting]


Connect = Callable[..., Peer]


@pytest.fixture
def connect() -> Connect:
    wall, publisher, ids = Wall(), ScriptedPublisher(), iter(range(1, 1000))
    for room in ("den", "box", "5", "hall"):
        publisher.waiting.setdefault(room, type(publisher.waiting["lobby"])())
    context = context_over(
        publisher,
        FakeClock(),
        lambda: message_id(next(ids)),
        wall,
        authenticator=Unasked(),
        revocations=wall,
        protocol_errors_max=128,
    )

    def start(kind: str = "ws", room: str = "lobby", token: str | None = None) -> Peer:
        session: Session
        if kind == "ws":
            session = WsSession(context, "10.0.0.1", "s", token=token)
        elif kind == "chat":
            session = ChatSession(context, "10.0.0.1", room, token=token)
        else:
            session = FeedSession(context, "10.0.0.1", room, None, token=token)
        peer = Peer(session, wall, publisher)
        peer.perform()
        return peer

    return start


def error(code: str, text: str, ref: object = None, *, retryable: bool = False) -> dict[str, Any]:
    shown = {} if ref is None else {"ref": ref}
    return {"op": "error", **shown, "code": code, "message": text, "retryable": retryable}


def chat(**fields: Any) -> tuple[dict[str, Any], bytes]:
    known = {"userId": 7, "username": "ada", "message": "hi", "messageType": "TEXT"}
    return known | {"timestamp": "2026-11-24T01:31:00Z"} | fields, b"{}"


def test_a_hello_with_a_token_is_welcomed_as_its_user_and_hears_when_it_ends(connect: Connect) -> None:
    assert connect().hello() == {
        "op": "welcome",
        "session": "s",
        "userId": 7,
        "username": "ada",
        "heartbeat": 25,
        "expiresAt": "2026-05-28T20:27:40.000Z",
    }


def test_a_hello_without_a_token_is_refused_and_may_be_said_again(connect: Connect) -> None:
    peer = connect()
    peer.say({"op": "hello", "ref": 1, "userId": 7, "username": "ada"})
    assert peer.read() == [error("unauthorized", "a token is required", 1)]
    assert peer.hello()["op"] == "welcome"


@pytest.mark.parametrize("fault", list(TokenFault))
def test_every_fault_of_a_token_has_its_words_and_none_of_the_token(connect: Connect, fault: TokenFault) -> None:
    peer = connect()
    peer.say({"op": "hello", "ref": 1, "token": "secret"})
    peer.answer(TokenRefused(fault))
    answer = peer.read()[0]
    assert (answer["code"], answer["retryable"]) == ("unauthorized", False)
    assert "secret" not in repr(answer)
    assert "secret" not in repr(peer.session)


def test_nobody_comes_in_while_tokens_cannot_be_checked(connect: Connect) -> None:
    peer = connect()
    peer.say({"op": "hello", "ref": 1, "token": "x"})
    peer.answer(IdentityUnavailable("down"))
    assert peer.read() == [error("unavailable", "Tokens cannot be checked now, please retry", 1, retryable=True)]
    peer.say({"op": "join", "room": "lobby"})
    assert peer.read() == [error("unauthorized", "say hello first")]


def test_nothing_is_read_while_a_token_is_looked_at_and_the_rest_of_its_frame_waits(connect: Connect) -> None:
    peer = connect()
    left = peer.say({"op": "hello", "token": "x"}, {"op": "send", "room": "lobby", "text": "after"})
    assert (left, peer.session.inflight.is_stalled, peer.sent) == (1, True, [])
    peer.answer(ADA)
    assert not peer.session.inflight.is_stalled
    assert peer.session.go_on(10) == 0
    assert peer.sent == ["after"]


@pytest.mark.parametrize("claim", [{"userId": 8}, {"username": "eve"}, {"userId": "8"}, {"username": 7}])
def test_a_hello_that_claims_another_user_than_its_token_is_refused(connect: Connect, claim: dict[str, Any]) -> None:
    answer = connect().hello(**claim)
    assert (answer["op"], answer["code"]) == ("error", "forbidden")


def test_a_hello_may_repeat_what_its_token_says(connect: Connect) -> None:
    assert connect().hello(userId="7", username="ada")["op"] == "welcome"


@pytest.mark.parametrize("token", [7, [], {}, True])
def test_a_token_is_a_string(connect: Connect, token: object) -> None:
    peer = connect()
    peer.say({"op": "hello", "token": token})
    assert peer.read() == [error("malformed", "token must be a string")]


def test_the_token_of_the_handshake_needs_none_in_the_hello(connect: Connect) -> None:
    peer = connect(token="x")
    assert peer.session.inflight.is_stalled
    peer.answer(ADA)
    peer.say({"op": "hello"})
    assert peer.read()[0]["username"] == "ada"


@pytest.mark.parametrize("kind", ["ws", "chat", "feed"])
@pytest.mark.parametrize(
    ("outcome", "closed"),
    [
        (TokenRefused(TokenFault.EXPIRED), (4401, "the token has expired")),
        (TokenRefused(TokenFault.BAD_CLAIM, "aud"), (4401, "the token lacks a valid claim: aud")),
        (IdentityUnavailable("down"), (1013, "Tokens cannot be checked now, please retry")),
        (TokenRefused(TokenFault.BAD_CLAIM, "x" * 99), (4401, f"the token lacks a valid claim: {'x' * 69}")),
        (attrs.evolve(ADA, expires_at=NOW), (4401, "the token has expired")),
    ],
)
def test_a_handshake_with_a_bad_token_is_closed(connect: Connect, kind: str, outcome: Any, closed: Any) -> None:
    peer = connect(kind, token="x")
    peer.answer(outcome)
    assert peer.closed == closed
    assert peer.rooms == []


@pytest.mark.parametrize("kind", ["chat", "feed"])
def test_without_a_token_there_is_no_chat_and_no_feed(connect: Connect, kind: str) -> None:
    assert connect(kind).closed == (4401, "a token is required")


def test_rooms_are_joined_and_sent_to_as_the_grants_say(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    for room in ("lobby", "den", "box", "hall"):
        peer.say({"op": "join", "ref": f"join {room}", "room": room})
        peer.say({"op": "send", "ref": f"send {room}", "room": room, "text": room})
    refused = {answer["ref"]: answer["message"] for answer in peer.read()}
    assert refused == {
        "send den": "the token does not allow writing to room den",
        "join box": "the token does not allow reading room box",
        "join hall": "the token does not allow reading room hall",
        "send hall": "the token does not allow writing to room hall",
    }
    assert [join.room_id for join in peer.rooms] == ["lobby", "den"]
    assert sorted(peer.sent) == ["box", "lobby"]


def test_a_grant_of_room5_is_one_of_5(connect: Connect) -> None:
    peer = connect()
    peer.hello(attrs.evolve(ADA, grants=(grant_of("room5", "rw"),)))
    peer.say({"op": "send", "room": "5", "text": "a"}, {"op": "send", "room": "room5", "text": "b"})
    assert peer.sent == ["a", "b"]


def test_an_admin_may_everything_but_be_somebody_else(connect: Connect) -> None:
    peer = connect()
    peer.hello(ROOT)
    peer.say({"op": "send", "room": "hall", "text": "hi"}, {"op": "join", "room": "den"})
    assert (peer.sent, [join.room_id for join in peer.rooms]) == (["hi"], ["den"])
    chatting = connect("chat", token="x")
    chatting.answer(ROOT)
    chatting.session.receive(chat(userId=7, username="root"), 50)
    assert chatting.read()[0].fate[2] == "userId is not the token's"


@pytest.mark.parametrize(
    ("room", "fields", "error_text"),
    [
        ("lobby", {}, None),
        ("box", {}, None),
        ("den", {}, "the token does not allow writing to room den"),
        ("lobby", {"userId": "8"}, "userId is not the token's"),
        ("lobby", {"username": "eve"}, "username is not the token's"),
    ],
)
def test_a_chat_frame_is_its_tokens_users(connect: Connect, room: str, fields: Any, error_text: str | None) -> None:
    peer = connect("chat", room, token="x")
    peer.answer(ADA)
    peer.session.receive(chat(**fields), 50)
    if error_text is None:
        assert peer.sent == ["hi"]
    else:
        assert [reply.fate[2] for reply in peer.read()] == [error_text]
        assert peer.sent == []


@pytest.mark.parametrize(("room", "may"), [("lobby", True), ("den", True), ("box", False), ("hall", False)])
def test_a_feed_needs_a_grant_to_read(connect: Connect, room: str, may: bool) -> None:
    peer = connect("feed", room, token="x")
    assert peer.rooms == []
    peer.answer(ADA)
    if may:
        assert [effect.room_id for effect in peer.rooms] == [room]
        assert peer.closed is None
    else:
        assert peer.rooms == []
        assert peer.closed == (4403, f"the token does not allow reading room {room}")


@pytest.mark.parametrize("kind", ["ws", "chat", "feed"])
def test_the_end_of_its_token_ends_a_session(connect: Connect, kind: str) -> None:
    peer = connect(kind, token="x")
    peer.answer(ADA)
    if kind == "ws":
        peer.say({"op": "hello"})
    peer.pass_time(59)
    assert peer.closed is None
    peer.pass_time(1)
    assert peer.closed == (4403, "the token has expired")
    if kind != "feed":
        peer.read()
        peer.say({"op": "send", "room": "lobby", "text": "late"}) if kind == "ws" else None
        assert peer.sent == []
    assert peer.session.context.metrics.tokens_expired == 1


def test_a_refresh_moves_the_end(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    peer.say({"op": "refresh", "ref": 3, "token": "y"})
    peer.answer(attrs.evolve(ADA, expires_at=NOW + 100))
    assert peer.read() == [{"op": "refreshed", "ref": 3, "expiresAt": "2026-05-28T20:28:20.000Z"}]
    peer.pass_time(60)
    assert peer.closed is None
    peer.pass_time(40)
    assert peer.closed == (4403, "the token has expired")


def test_a_refresh_may_also_end_a_session_earlier(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    peer.say({"op": "refresh", "token": "y"})
    peer.answer(attrs.evolve(ADA, expires_at=NOW + 5))
    peer.pass_time(5)
    assert peer.closed == (4403, "the token has expired")


def test_refreshes_leave_no_timers_behind(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    before = len(peer.timers)
    for n in range(50):
        peer.say({"op": "refresh", "token": "y"})
        peer.answer(attrs.evolve(ADA, expires_at=NOW + 60 + n))
    assert len(peer.timers) == before


def test_a_refresh_with_a_bad_token_or_another_users_changes_nothing(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    peer.say({"op": "refresh", "ref": 1, "token": "y"})
    peer.answer(TokenRefused(TokenFault.BAD_SIGNATURE))
    peer.say({"op": "refresh", "ref": 2, "token": "y"})
    peer.answer(ROOT)
    peer.say({"op": "refresh", "ref": 3})
    assert [(answer["ref"], answer["code"]) for answer in peer.read()] == [
        (1, "unauthorized"),
        (2, "forbidden"),
        (3, "unauthorized"),
    ]
    peer.say({"op": "send", "room": "hall", "text": "as root?"})
    assert peer.sent == []
    peer.pass_time(60)
    assert peer.closed == (4403, "the token has expired")


def test_a_narrower_token_leaves_what_may_not_be_read_and_sends_nothing_more_there(connect: Connect) -> None:
    peer = connect()
    peer.hello()
    peer.say({"op": "join", "room": "lobby"}, {"op": "join", "room": "den"})
    for join in list(peer.rooms):
        peer.session.joins.joined(join, 5, recovered=True)
    peer.say({"op": "send", "room": "lobby", "text": "before", "id": message_id(900)})
    peer.read()
    peer.rooms.clear()
    peer.say({"op": "refresh", "token": "y"})
    peer.answer(attrs.evolve(ADA, grants=(grant_of("den", "rw"),)))
    assert [answer.get("room", answer["op"]) for answer in peer.read()] == ["refreshed", "lobby"]
    assert [(type(effect), effect.join.room_id) for effect in peer.rooms] == [(Leave, "lobby")]
    peer.say({"op": "send", "ref": 1, "room": "lobby", "text": "before", "id": message_id(900)})
    assert [(answer["ref"], answer["code"]) for answer in peer.read()] == [(1, "forbidden")]
    assert peer.sent == ["before"]


def test_who_was_revoked_does_not_come_in(connect: Connect) -> None:
    peer = connect()
    peer.wall.revoked.add(7)
    assert peer.hello()["message"] == "the token was revoked"


def test_a_revocation_ends_the_sessions_of_its_user_and_no_other(connect: Connect) -> None:
    ada, root = connect(), connect()
    ada.hello()
    root.hello(ROOT)
    roster = ada.session.context.roster
    assert roster.disconnect(lambda principal: principal.user_id == 7, 4403, "the token was revoked") == 1
    ada.perform()
    root.perform()
    assert (ada.closed, root.closed) == ((4403, "the token was revoked"), None)
    ada.say({"op": "send", "room": "lobby", "text": "still here?"})
    assert ada.sent == []
    ada.session.closed()
    assert len(roster) == 1


def test_an_answer_that_comes_after_the_end_lets_nobody_in(connect: Connect) -> None:
    peer = connect()
    peer.say({"op": "hello", "token": "x"})
    peer.pass_time(11)
    assert peer.closed == (4401, "no valid hello in time")
    peer.answer(ADA)
    assert peer.read() == []
    assert len(peer.session.context.roster) == 0


def test_refused_tokens_close_a_session_in_the_end(connect: Connect) -> None:
    peer = connect()
    for _ in range(40):
        if peer.closed is None:
            peer.say({"op": "hello", "token": "x"})
            if peer.asked:
                peer.answer(TokenRefused(TokenFault.BAD_SIGNATURE))
    assert peer.closed == (4401, "too much before hello")
