import asyncio
import json
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.adapters.websockets.driver import SessionDriver, drive_ws
from chatflow.domain.session.errors import NO_HELLO
from chatflow.domain.session.recent_ids import RecentIds
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import BrokerFull, BrokerUnavailable, QueryTimeout, StoreOverloaded, StoreUnavailable
from tests.harness.waiting import eventually
from tests.unit.fakes import (
    FakeBroker,
    FakeGateway,
    go_on,
    hand_over,
    live,
    message,
    message_id,
    messages,
    settle,
)

DOWN = BrokerUnavailable("no broker")
HELLO = {"op": "hello", "userId": 7, "username": "ada"}
RETRY = "Message queue unavailable, please retry"
AT = "2026-05-28T20:26:40.000Z"
Answer = dict[str, object]


@attrs.define(eq=False)
class Client:
    """The far end of one ``/ws`` connection."""

    gateway: FakeGateway
    socket: MemorySocket = attrs.field(factory=MemorySocket)
    session: WsSession = attrs.field(init=False)
    driver: SessionDriver = attrs.field(init=False)
    frames: list[bytes] = attrs.field(factory=list)
    answers: list[Answer] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.session = WsSession(self.gateway.context, "10.0.0.1", "session-1")
        self.driver = drive_ws(self.session, self.socket)

    def send(self, *items: object) -> None:
        """One frame: one object, or an array of them; it is worked off at once, whatever it owes."""
        left = hand_over(self.driver, json.dumps(items[0] if len(items) == 1 else items))
        while left:
            self.session.inflight.debt.is_due = False
            left = go_on(self.driver, left)

    def say(self, text: str, ref: object = None, **more: object) -> None:
        self.send({"op": "send", "ref": ref, "room": "lobby", "text": text, **more})

    def read(self) -> None:
        for frame in self.socket.read():
            self.frames.append(frame)
            value = json.loads(frame)
            self.answers += value if isinstance(value, list) else [value]

    async def get(self, count: int = 1) -> list[Answer]:
        """Read until there are so many objects; then there must not be more."""

        def enough() -> bool:
            self.read()
            return len(self.answers) >= count

        await eventually(enough)
        await settle()
        self.read()
        assert len(self.answers) == count
        answers, self.answers = self.answers, []
        self.frames.clear()
        return answers

    async def one(self) -> Answer:
        return (await self.get(1))[0]

    async def silence(self) -> None:
        await settle()
        self.read()
        assert self.answers == []

    async def greeted(self) -> "Client":
        self.send(HELLO)
        assert (await self.one())["op"] == "welcome"
        return self


Connect = Callable[..., Client]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def make(*, manual: bool = False, gateway: FakeGateway | None = None, **settings: object) -> Client:
        clients.append(Client(gateway or FakeGateway(broker=FakeBroker(manual=manual), **settings)))
        return clients[-1]

    yield make
    for client in clients:
        client.driver.close()
        await client.gateway.close()
    await settle()


def error(code: str, text: str, ref: object = ..., *, retryable: bool = False) -> Answer:
    shown = {} if ref is ... else {"ref": ref}
    return {"op": "error", **shown, "code": code, "message": text, "retryable": retryable}


def ops(answers: list[Answer]) -> list[object]:
    return [answer["op"] for answer in answers]


# hello


async def test_hello_is_answered_with_welcome(connect: Connect) -> None:
    client = connect()
    client.send(HELLO)
    assert await client.one() == {
        "op": "welcome",
        "session": "session-1",
        "userId": 7,
        "username": "ada",
        "heartbeat": 25,
    }


async def test_hello_may_carry_a_ref_and_its_user_id_as_text(connect: Connect) -> None:
    client = connect()
    client.send({**HELLO, "userId": "7", "ref": "r"})
    answer = await client.one()
    assert (answer["ref"], answer["userId"]) == ("r", 7)


@pytest.mark.parametrize("op", ["join", "leave", "send"])
async def test_nothing_goes_before_hello(connect: Connect, op: str) -> None:
    client = connect()
    client.send({"op": op, "ref": 1, "room": "lobby", "text": "hi"})
    assert await client.one() == error("unauthorized", "say hello first", 1)
    assert client.gateway.broker.attempts == []
    assert client.gateway.context.hub.active_rooms == 0


@pytest.mark.parametrize(("frames", "closed"), [(32, None), (33, (NO_HELLO, "too much before hello"))])
async def test_a_peer_has_32_frames_to_say_hello(connect: Connect, frames: int, closed: tuple[int, str] | None) -> None:
    client = connect()
    for _ in range(frames):
        client.send([])
    client.driver.flush()
    assert client.socket.closed_with == closed


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"userId": None}, "userID is required"),
        ({"userId": 0}, "userID must be between 1 and 9007199254740991"),
        ({"userId": True}, "userID must be a valid number"),
        ({"username": None}, "username is required"),
        ({"username": "a b"}, "username must be alphanumeric (only letters and numbers)"),
        ({"username": "ab"}, "username must be between 3 and 20 characters"),
    ],
)
async def test_a_hello_that_breaks_a_rule_is_no_hello_and_may_be_said_again(
    connect: Connect, changes: Answer, text: str
) -> None:
    client = connect()
    client.send({**HELLO, **changes})
    assert await client.one() == error("invalid_message", text)
    client.session.hello_overdue()
    client.driver.flush()
    assert client.socket.closed_with == (NO_HELLO, "no valid hello in time")


async def test_hello_is_said_once(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({**HELLO, "userId": 8})
    assert (await client.one())["code"] == "malformed"
    assert client.session.user == (7, "ada")


async def test_a_token_that_nobody_can_check_is_refused(connect: Connect) -> None:
    client = connect()
    client.send({"op": "hello", "token": "abc"})
    assert (await client.one())["code"] == "unauthorized"
    assert client.session.user is None


async def test_without_a_hello_in_time_the_connection_is_closed(connect: Connect) -> None:
    client = connect()
    client.session.hello_overdue()
    client.driver.flush()
    assert client.socket.closed_with == (4401, "no valid hello in time")


async def test_after_a_hello_the_timer_closes_nothing(connect: Connect) -> None:
    client = await connect().greeted()
    client.session.hello_overdue()
    client.driver.flush()
    assert client.socket.is_open()


# frames


@pytest.mark.parametrize("frame", ["", "{", "hello", '{"a":1}x', "NaN", b"{}", "[" * 10_000])
async def test_a_frame_that_is_not_json_is_malformed_and_the_connection_stays(
    connect: Connect, frame: str | bytes
) -> None:
    client = await connect().greeted()
    hand_over(client.driver, frame)
    assert await client.one() == error("malformed", "malformed JSON")
    assert client.socket.is_open()


@pytest.mark.parametrize("item", [1, "text", None, True, 1.5, [["nested"]]])
async def test_an_item_that_is_not_an_object_is_malformed(connect: Connect, item: object) -> None:
    client = await connect().greeted()
    client.send(item)
    assert await client.one() == error("malformed", "a frame is an object or an array of objects")


@pytest.mark.parametrize("op", [..., None, "", "HELLO", "message", 1, [], {}])
async def test_an_unknown_operation_is_malformed_and_its_ref_is_echoed(connect: Connect, op: object) -> None:
    client = await connect().greeted()
    client.send({"ref": 9} if op is ... else {"op": op, "ref": 9})
    assert await client.one() == error("malformed", "op must be hello, join, leave, send or refresh", 9)


@pytest.mark.parametrize("ref", [0, -1, 1, 2**70, "", "a", '"', "é\n", "x" * 1_000])
async def test_a_ref_is_any_string_or_integer_and_comes_back_in_every_answer(connect: Connect, ref: object) -> None:
    client = await connect().greeted()
    client.send(
        {"op": "join", "ref": ref, "room": "lobby"},
        {"op": "leave", "ref": ref, "room": "den"},
        {"op": "shout", "ref": ref},
        {"op": "send", "ref": ref, "room": "lobby", "text": "hi"},
    )
    answers = await client.get(4)
    assert sorted(str(op) for op in ops(answers)) == ["ack", "error", "joined", "left"]
    assert [answer["ref"] for answer in answers] == [ref] * 4


async def test_an_answer_to_an_item_without_a_ref_has_none(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({"op": "leave", "room": "den"}, {"op": "leave", "ref": None, "room": "den"})
    client.say("hi")
    assert all("ref" not in answer for answer in await client.get(3))


@pytest.mark.parametrize("ref", [True, False, 1.5, [], {}, [1]])
async def test_any_other_ref_is_malformed_and_nothing_is_done(connect: Connect, ref: object) -> None:
    client = await connect().greeted()
    client.say("hi", ref)
    assert await client.one() == error("malformed", "ref must be a string or an integer")
    assert client.gateway.broker.attempts == []


async def test_an_array_is_handled_in_order_and_one_bad_item_does_not_stop_the_rest(connect: Connect) -> None:
    client = connect()
    client.send(
        HELLO,
        {"op": "send", "ref": 1, "room": "lobby", "text": "one"},
        {"op": "send", "ref": 2, "room": "lobby", "text": ""},
        7,
        {"op": "send", "ref": 3, "room": "lobby", "text": "three"},
    )
    answers = await client.get(5)
    assert ops(answers) == ["welcome", "error", "error", "ack", "ack"]
    assert [m.text for m in client.gateway.broker.confirmed[0].messages] == ["one", "three"]


async def test_an_empty_array_is_answered_with_nothing(connect: Connect) -> None:
    client = await connect().greeted()
    hand_over(client.driver, "[]")
    await client.silence()


async def test_unknown_fields_are_ignored(connect: Connect) -> None:
    client = await connect().greeted()
    client.say("hi", 1, extra={"a": 1})
    assert (await client.one())["op"] == "ack"


# send


async def test_a_message_is_acked_once_the_broker_has_it(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    client.say("hi", 3)
    await eventually(lambda: client.gateway.broker.waiting)
    await client.silence()
    client.gateway.broker.confirm()
    assert await client.one() == {"op": "ack", "ref": 3, "id": message_id(1), "at": AT}
    (sent,) = client.gateway.broker.confirmed[0].messages
    assert (sent.room_id, sent.user_id, sent.username, sent.text) == ("lobby", 7, "ada", "hi")
    assert (sent.message_type, sent.server_id, sent.client_ip) == ("TEXT", "gw-1", "10.0.0.1")


async def test_a_send_may_bring_its_own_id_and_needs_no_join(connect: Connect) -> None:
    client = await connect().greeted()
    client.say("hi", 3, id=message_id(99).upper(), room="room5")
    assert (await client.one())["id"] == message_id(99)
    assert client.gateway.broker.confirmed[0].messages[0].room_id == "5"


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"room": None}, "invalid_room", "Invalid roomId: must be 1-64 characters of A-Z a-z 0-9 . _ -"),
        ({"room": 5}, "invalid_room", "Invalid roomId: must be 1-64 characters of A-Z a-z 0-9 . _ -"),
        ({"room": ""}, "invalid_room", "Invalid roomId: must be 1-64 characters of A-Z a-z 0-9 . _ -"),
        ({"room": "a b"}, "invalid_room", "Invalid roomId: must be 1-64 characters of A-Z a-z 0-9 . _ -"),
        ({"text": None}, "invalid_message", "text is required"),
        ({"text": ""}, "invalid_message", "text is required"),
        ({"text": "x" * 501}, "invalid_message", "text must be 1-500 characters"),
        ({"text": 5}, "invalid_message", "text must be 1-500 characters"),
        ({"id": "7"}, "invalid_message", "id must be a UUID"),
        ({"id": 7}, "invalid_message", "id must be a UUID"),
        ({"ack": "never"}, "invalid_message", "ack must be durable or stored"),
        ({"ack": []}, "invalid_message", "ack must be durable or stored"),
    ],
)
async def test_what_is_wrong_with_a_send_is_said_and_nothing_is_sent(
    connect: Connect, changes: Answer, code: str, text: str
) -> None:
    client = await connect().greeted()
    client.send({"op": "send", "ref": 3, "room": "lobby", "text": "hi", **changes})
    assert await client.one() == error(code, text, 3)
    assert client.gateway.broker.attempts == []
    assert client.gateway.metrics.errors == 1
    client.say("the next one is not fenced", 4)
    assert (await client.one())["op"] == "ack"


async def test_the_acks_of_one_envelope_travel_in_one_frame(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    for n in range(10):
        client.say("hi", n)
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.confirm()
    await eventually(lambda: client.socket._sent)
    client.read()
    assert len(client.frames) == 1
    assert [answer["ref"] for answer in await client.get(10)] == list(range(10))


async def test_a_frame_holds_at_most_64_answers(connect: Connect) -> None:
    client = await connect().greeted()
    client.send(*({"op": "leave", "ref": n, "room": "den"} for n in range(130)))
    await eventually(lambda: client.socket._sent)
    client.read()
    assert [len(json.loads(frame)) for frame in client.frames] == [64, 64, 2]
    assert [answer["ref"] for answer in await client.get(130)] == list(range(130))


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [(DOWN, "unavailable", RETRY), (BrokerFull("full"), "busy", "Too busy, please retry")],
)
async def test_a_broker_that_refuses_is_told_as_retryable(
    connect: Connect, failure: Exception, code: str, text: str
) -> None:
    client = await connect().greeted()
    client.gateway.broker.outcomes.append(failure)
    client.say("hi", 3)
    assert await client.one() == error(code, text, 3, retryable=True)
    assert client.session.inflight.count == 0


async def test_an_open_breaker_is_unavailable(connect: Connect) -> None:
    client = await connect().greeted()
    for _ in range(5):
        client.gateway.publisher.breaker.failure()
    client.say("hi", 3)
    client.say("hi", 4, ack="stored")
    assert await client.get(2) == [error("unavailable", RETRY, n, retryable=True) for n in (3, 4)]
    assert len(client.gateway.context.stored_acks) == 0


async def test_a_draining_gateway_is_unavailable(connect: Connect) -> None:
    client = await connect().greeted()
    await client.gateway.publisher.drain()
    client.say("hi", 3)
    assert await client.one() == error("unavailable", RETRY, 3, retryable=True)


async def test_a_gateway_at_its_limit_is_busy(connect: Connect) -> None:
    client = await connect(manual=True, limit_bytes=1).greeted()
    client.say("hi", 3)
    client.say("hi", 4, room="den")
    assert await client.one() == error("busy", "Too busy, please retry", 4, retryable=True)
    client.gateway.broker.confirm()
    assert (await client.one())["op"] == "ack"


# acks of the commit


async def test_a_stored_ack_comes_after_the_commit_and_carries_the_seq(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 4))
    client.say("hi", 3, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.confirmed)
    await client.silence()
    assert client.session.inflight.count == 1
    client.gateway.commit_confirmed()
    assert await client.one() == {"op": "ack", "ref": 3, "id": message_id(99), "at": AT, "seq": 5}
    assert client.session.inflight.count == 0


async def test_a_stored_ack_that_the_live_channel_lost_comes_from_the_store(connect: Connect) -> None:
    client = await connect().greeted()
    client.say("hi", 3, ack="stored")
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.store.put(*client.gateway.broker.confirmed[0].messages)
    client.gateway.clock.advance(2.0)
    await client.gateway.context.stored_acks.resync()
    assert (await client.one())["seq"] == 1


async def test_a_stored_ack_that_never_comes_is_a_retryable_error_and_frees_its_place(connect: Connect) -> None:
    client = await connect().greeted()
    client.say("hi", 3, ack="stored")
    await eventually(lambda: client.gateway.broker.confirmed)
    assert client.session.inflight.count == 1
    client.gateway.clock.advance(60.0)
    await client.gateway.context.stored_acks.resync()
    answer = await client.one()
    assert (answer["op"], answer["ref"], answer["code"], answer["retryable"]) == ("error", 3, "unavailable", True)
    assert client.session.inflight.count == 0
    assert len(client.gateway.context.stored_acks) == 0


async def test_a_join_that_a_later_one_supersedes_is_answered_too(connect: Connect) -> None:
    client = await connect().greeted()
    client.send(*({"op": op, "ref": ref, "room": "lobby"} for ref, op in enumerate(["join", "join", "leave"], start=1)))
    answers = await client.get(3)
    assert [(each["op"], each["ref"]) for each in answers] == [("error", 1), ("error", 2), ("left", 3)]
    assert all(each["retryable"] for each in answers[:2])


async def test_a_refused_send_is_told_once_even_if_it_is_stored_later(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("hi", 3, ack="stored", id=message_id(99))
    assert (await client.one())["op"] == "error"
    client.gateway.broker.confirmed.append(client.gateway.broker.attempts[0])
    client.gateway.commit_confirmed()
    await client.silence()
    assert client.session.inflight.count == 0


async def test_a_send_that_is_stored_before_its_publish_fails_is_told_once(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    client.say("hi", 3, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.confirmed.append(client.gateway.broker.attempts[0])
    client.gateway.commit_confirmed()
    assert (await client.one())["seq"] == 1
    client.gateway.broker.fail(DOWN)
    await eventually(lambda: client.gateway.ingest.refused)
    await client.silence()
    assert client.session.inflight.count == 0
    client.say("nothing was refused, so nothing is fenced", 4)
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.confirm()
    assert (await client.one())["ref"] == 4


async def test_the_same_id_sent_twice_is_acked_twice_with_one_seq(connect: Connect) -> None:
    client = await connect().greeted()
    for ref in (3, 4):
        client.say("hi", ref, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.commit_confirmed()
    assert [(answer["ref"], answer["seq"]) for answer in await client.get(2)] == [(3, 1), (4, 1)]


CONFLICT = "the message id was used before, with another room or text"


@pytest.mark.parametrize("other", [{"text": "ho"}, {"room": "den"}], ids=["text", "room"])
async def test_a_stored_ack_is_a_conflict_where_the_id_stands_for_another_message(connect: Connect, other) -> None:
    client = await connect().greeted()
    client.gateway.store.put(message(99))
    client.say(**({"text": "hi", "ref": 3, "ack": "stored", "id": message_id(99)} | other))
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.commit_confirmed()
    assert await client.one() == error("conflict", CONFLICT, 3)
    assert (client.session.inflight.count, client.gateway.metrics.conflicts) == (0, 1)
    client.say("hi", 4, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.commit_confirmed()
    assert (await client.one())["seq"] == 1


async def test_a_stored_ack_waits_for_the_senders_own_message_of_that_id(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(message(99, user_id=8))
    client.say("ho", 3, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.context.stored_acks.on_live(live(client.gateway.store.put(message(99, user_id=8))))
    await client.silence()
    client.gateway.commit_confirmed()
    assert (await client.one())["seq"] == 2


async def test_a_durable_ack_is_a_conflict_while_the_gateway_remembers_the_id(connect: Connect) -> None:
    client = await connect(settings={"recent_ids": RecentIds(2)}).greeted()
    client.say("hi", 1, id=message_id(99))
    client.say("ho", 2, id=message_id(99))
    client.say("hi", 3, id=message_id(99), room="den")
    client.say("hi", 4, id=message_id(99))
    answers = {answer["ref"]: answer for answer in await client.get(4)}
    assert [answers[ref]["op"] for ref in (1, 2, 3, 4)] == ["ack", "error", "error", "ack"]
    assert answers[2] == error("conflict", CONFLICT, 2)
    assert client.gateway.metrics.conflicts == 2
    for number in (1, 2):
        client.say("hi", 10 + number, id=message_id(number))
    client.say("ho", 5, id=message_id(99))
    assert [answer["op"] for answer in await client.get(3)] == ["ack"] * 3


async def test_what_is_stored_counts_though_another_text_was_there_first(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(message(99))
    client.say("ho", 1, id=message_id(99))
    assert (await client.one())["op"] == "ack"
    client.gateway.commit_confirmed()
    client.say("hi", 2, ack="stored", id=message_id(99))
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.commit_confirmed()
    assert (await client.one())["seq"] == 1
    client.say("hi", 3, id=message_id(99))
    assert (await client.one())["op"] == "ack"


async def test_a_conflict_that_the_confirm_tells_is_final_and_holds_nothing_up(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    client.say("one", 1, id=message_id(91))
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.fail(DOWN)
    assert (await client.one())["retryable"]
    client.say("one", 2, id=message_id(91))
    client.say("two", 3, ack="stored", id=message_id(92))
    await eventually(lambda: client.gateway.broker.waiting)
    for sent in client.gateway.broker.waiting[0][0].messages:
        client.gateway.publisher.conflicts.limit = 9
        client.gateway.publisher.conflicts.add(sent)
    client.gateway.broker.confirm()
    answers = await client.get(2)
    assert [(answer["ref"], answer["code"]) for answer in answers] == [(2, "conflict"), (3, "conflict")]
    assert (client.session.inflight.count, len(client.gateway.context.stored_acks)) == (0, 0)
    client.say("three", 4)
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.confirm()
    assert (await client.one())["ref"] == 4


async def test_a_durable_ack_may_be_asked_for_by_name(connect: Connect) -> None:
    client = await connect().greeted()
    client.say("hi", 3, ack="durable")
    assert "seq" not in await client.one()


# order over refusals


async def test_what_was_sent_before_the_refusal_was_read_is_refused_too(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("one", 1)
    await eventually(lambda: client.socket._sent)
    client.say("two", 2)
    client.say("two", 3, ack="stored")
    answers = await client.get(3)
    assert answers == [error("unavailable", RETRY, n, retryable=True) for n in (1, 2, 3)]
    assert len(client.gateway.broker.attempts) == 1
    assert len(client.gateway.context.stored_acks) == 0
    client.say("one", 4)
    client.say("two", 5)
    assert ops(await client.get(2)) == ["ack", "ack"]
    sent = [m.text for envelope in client.gateway.broker.confirmed for m in envelope.messages]
    assert sent == ["one", "two"]


async def test_another_room_and_another_connection_are_not_fenced(connect: Connect) -> None:
    client = await connect().greeted()
    other = await connect(gateway=client.gateway).greeted()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("one", 1)
    await eventually(lambda: client.socket._sent)
    client.say("two", 2, room="den")
    other.say("three", 3)
    assert ops(await client.get(2)) == ["error", "ack"]
    assert ops(await other.get(1)) == ["ack"]


async def test_a_sender_that_never_pauses_is_let_through_after_a_second(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("one", 0)
    await eventually(lambda: client.socket._sent)
    for n in range(1, 9):
        client.say("more", n)
        await settle()
        client.read()
        client.say("more", n)
        await settle()
        client.gateway.clock.advance(0.2)
    client.read()
    await settle()
    client.answers.clear()
    client.say("through", 99)
    assert (await client.one())["op"] == "ack"


@pytest.mark.parametrize("failures", [1, 2, 3, 5])
async def test_one_senders_messages_are_stored_in_order_when_it_repeats_what_was_refused(
    connect: Connect, failures: int
) -> None:
    """A pipelining sender: window of 8, repeats refused messages from the oldest on, keeps its order."""
    client = await connect().greeted()
    client.gateway.broker.outcomes.extend((DOWN if n % (failures + 1) else None) for n in range(24))
    todo, total, window = list(range(30)), 30, 8
    while todo:
        batch = todo[:window]
        for n in batch:
            client.say(str(n), n, id=message_id(n))
            await settle(1)
        answers = await client.get(len(batch))
        acked = {answer["ref"] for answer in answers if answer["op"] == "ack"}
        todo = [n for n in todo if n not in acked]
        client.gateway.clock.advance(20)  # let an open breaker probe
    sent = [int(m.text) for envelope in client.gateway.broker.confirmed for m in envelope.messages]
    assert sent == list(range(total))


# join and leave


async def test_a_join_is_answered_with_the_head_and_then_brings_what_was_missed(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 57))
    client.send({"op": "join", "ref": 1, "room": "lobby", "since": 41})
    answers = await client.get(17)
    assert answers[0] == {"op": "joined", "ref": 1, "room": "lobby", "head": 57, "recovered": True}
    assert [answer["seq"] for answer in answers[1:]] == list(range(42, 58))
    assert answers[1] == {
        "op": "message",
        "room": "lobby",
        "seq": 42,
        "id": message_id(42),
        "userId": 7,
        "username": "ada",
        "type": "TEXT",
        "text": "hi",
        "at": AT,
    }


async def test_a_join_without_since_brings_only_what_is_new(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 3))
    client.send({"op": "join", "ref": 1, "room": "lobby"})
    assert (await client.one())["head"] == 3
    client.say("hi", 2, id=message_id(99))
    assert (await client.one())["op"] == "ack"
    client.gateway.commit_confirmed()
    answer = await client.one()
    assert (answer["op"], answer["seq"], answer["text"]) == ("message", 4, "hi")


async def test_who_missed_too_much_is_told_so_and_goes_on_from_the_head(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 1_002))
    client.send({"op": "join", "ref": 1, "room": "lobby", "since": 1})
    assert await client.one() == {"op": "joined", "ref": 1, "room": "lobby", "head": 1_002, "recovered": False}


@pytest.mark.parametrize("since", [-1, True, "1", 1.5, [], 2**63, 10**30])
async def test_a_since_that_is_no_sequence_number_is_malformed(connect: Connect, since: object) -> None:
    client = await connect().greeted()
    client.send({"op": "join", "ref": 1, "room": "lobby", "since": since})
    assert await client.one() == error("malformed", "since must be a sequence number, 0 or more", 1)
    assert client.gateway.context.hub.active_rooms == 0


@pytest.mark.parametrize("op", ["join", "leave"])
@pytest.mark.parametrize("room", [None, 5, "", "a b", "x" * 65])
async def test_a_bad_room_is_said_to_be_one(connect: Connect, op: str, room: object) -> None:
    client = await connect().greeted()
    client.send({"op": op, "ref": 1, "room": room})
    answer = await client.one()
    assert (answer["code"], answer["ref"], answer["retryable"]) == ("invalid_room", 1, False)


async def test_room5_and_5_are_one_room(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({"op": "join", "ref": 1, "room": "room5"})
    assert (await client.one())["room"] == "5"
    client.send({"op": "send", "room": "5", "text": "hi"})
    await client.one()
    client.gateway.commit_confirmed()
    assert (await client.one())["room"] == "5"
    client.send({"op": "leave", "room": "5"})
    assert (await client.one())["room"] == "5"
    assert client.gateway.context.hub.active_rooms == 0


async def test_leaving_stops_the_messages(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({"op": "join", "room": "lobby"})
    await client.one()
    client.send({"op": "leave", "ref": 2, "room": "lobby"})
    assert await client.one() == {"op": "left", "ref": 2, "room": "lobby"}
    client.say("hi", 3)
    assert (await client.one())["op"] == "ack"
    client.gateway.commit_confirmed()
    await client.silence()


async def test_leaving_a_room_that_was_not_joined_is_answered_all_the_same(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({"op": "leave", "ref": 2, "room": "lobby"})
    assert await client.one() == {"op": "left", "ref": 2, "room": "lobby"}


async def test_joining_again_starts_over_from_the_new_since(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 3))
    client.send({"op": "join", "ref": 1, "room": "lobby"}, {"op": "join", "ref": 2, "room": "lobby", "since": 1})
    superseded, joined, *rows = await client.get(4)
    assert (superseded["op"], superseded["ref"], joined["ref"]) == ("error", 1, 2)
    assert [row["seq"] for row in rows] == [2, 3]
    client.send({"op": "join", "ref": 3, "room": "lobby", "since": 2})
    assert [answer.get("seq") for answer in await client.get(2)] == [None, 3]


async def test_leaving_during_the_join_leaves_nothing_behind(connect: Connect) -> None:
    client = await connect().greeted()
    client.gateway.store.put(*messages(1, 3))
    client.send({"op": "join", "ref": 1, "room": "lobby", "since": 0})
    await settle(1)
    client.send({"op": "leave", "ref": 2, "room": "lobby"})
    assert [(answer["op"], answer["ref"]) for answer in await client.get(2)] == [("error", 1), ("left", 2)]
    assert client.gateway.context.hub.active_rooms == 0


async def test_messages_come_behind_the_answers_of_the_same_turn(connect: Connect) -> None:
    client = await connect().greeted()
    client.send({"op": "join", "room": "lobby"})
    await client.one()
    client.say("hi", 1)
    await client.one()
    client.send({"op": "leave", "ref": 2, "room": "den"})
    client.gateway.commit_confirmed()
    assert ops(await client.get(2)) == ["left", "message"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StoreUnavailable("down"), "unavailable"),
        (QueryTimeout("slow"), "unavailable"),
        (StoreOverloaded("many"), "busy"),
    ],
)
async def test_a_join_that_cannot_read_the_store_is_told_as_retryable(
    connect: Connect, failure: StoreUnavailable, code: str
) -> None:
    client = await connect().greeted()
    client.gateway.store.down = failure
    client.send({"op": "join", "ref": 1, "room": "lobby"})
    answer = await client.one()
    assert (answer["op"], answer["ref"], answer["code"], answer["retryable"]) == ("error", 1, code, True)
    client.gateway.store.down = None
    client.send({"op": "join", "ref": 2, "room": "lobby"})
    assert (await client.one())["op"] == "joined"


async def test_a_connection_may_be_in_so_many_rooms_and_no_more(connect: Connect) -> None:
    client = await connect(settings={"rooms_per_connection": 2}).greeted()
    client.send(*({"op": "join", "ref": n, "room": str(n)} for n in (1, 2, 3)))
    answers = {answer["ref"]: answer for answer in await client.get(3)}
    assert (answers[1]["op"], answers[2]["op"]) == ("joined", "joined")
    assert (answers[3]["code"], answers[3]["retryable"]) == ("forbidden", False)
    client.send({"op": "join", "ref": 4, "room": "2"})
    assert (await client.one())["op"] == "joined"
    client.send({"op": "leave", "room": "1"}, {"op": "join", "ref": 5, "room": "3"})
    assert ops(await client.get(2)) == ["left", "joined"]


async def test_two_connections_in_a_room_hear_each_other_and_themselves(connect: Connect) -> None:
    one = await connect().greeted()
    other = await connect(gateway=one.gateway).greeted()
    for client in (one, other):
        client.send({"op": "join", "room": "lobby"})
        await client.one()
    one.say("from one", 1)
    await one.one()
    other.say("from other", 1)
    await other.one()
    one.gateway.commit_confirmed()
    for client in (one, other):
        assert [answer["text"] for answer in await client.get(2)] == ["from one", "from other"]


# limits and the end


async def test_at_the_limit_of_messages_in_flight_reading_stops_until_one_is_settled(connect: Connect) -> None:
    client = await connect(manual=True, settings={"inflight_per_connection": 2}).greeted()
    client.say("one", 1)
    assert not client.session.inflight.is_stalled
    client.say("two", 2, ack="stored")
    assert client.session.inflight.is_stalled
    resumed = asyncio.create_task(client.driver.backpressure.resumed())
    await eventually(lambda: client.gateway.broker.waiting)
    assert not resumed.done()
    client.gateway.broker.confirm()
    await resumed
    assert client.session.inflight.count == 1
    client.gateway.commit_confirmed()
    await eventually(lambda: client.session.inflight.count == 0)


async def test_a_congested_gateway_stops_reading_from_everybody(connect: Connect) -> None:
    client = await connect(manual=True, limit_bytes=400).greeted()
    idle = await connect(gateway=client.gateway).greeted()
    client.say("one", 1)
    assert idle.session.inflight.is_stalled
    resumed = asyncio.create_task(idle.driver.backpressure.resumed())
    await eventually(lambda: client.gateway.broker.waiting)
    assert not resumed.done()
    client.gateway.broker.confirm()
    await resumed


async def test_a_connection_that_ends_leaves_its_rooms_and_keeps_what_it_offered(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    client.send({"op": "join", "room": "lobby"}, {"op": "join", "room": "den"})
    await client.get(2)
    client.say("one", 1)
    client.say("two", 2, ack="stored")
    await eventually(lambda: client.gateway.broker.waiting)
    client.socket.close(1001, "gone")
    client.driver.close()
    assert client.gateway.context.hub.active_rooms == 0
    assert len(client.gateway.context.stored_acks) == 0
    client.gateway.broker.confirm()
    await eventually(lambda: client.gateway.broker.confirmed)
    client.gateway.commit_confirmed()
    await client.silence()
    assert client.gateway.store.ids() == [message_id(1), message_id(2)]


async def test_a_connection_that_ends_while_the_broker_is_away_leaves_no_task(connect: Connect) -> None:
    client = await connect(manual=True).greeted()
    client.say("one", 1)
    client.say("two", 2, ack="stored")
    await eventually(lambda: client.gateway.broker.waiting)
    client.socket.close(1001, "gone")
    client.driver.close()
    client.gateway.broker.fail(DOWN)
    await eventually(lambda: client.gateway.ingest.refused == 2)
    await client.silence()
    assert not client.driver._tasks


async def test_joins_count_until_they_are_answered(connect: Connect) -> None:
    client = await connect(settings={"inflight_per_connection": 2}).greeted()
    client.send({"op": "join", "room": "lobby"}, {"op": "join", "room": "den"})
    assert client.session.inflight.is_stalled
    await client.get(2)
    assert client.session.inflight.count == 0


async def test_a_join_that_is_superseded_left_or_refused_counts_no_more(connect: Connect) -> None:
    client = await connect().greeted()
    client.send(*({"op": "join", "room": "lobby"} for _ in range(3)), {"op": "leave", "room": "lobby"})
    await client.get(4)
    assert client.session.inflight.count == 0
    client.gateway.store.down = StoreUnavailable("gone")
    client.send({"op": "join", "room": "lobby"})
    assert (await client.one())["code"] == "unavailable"
    assert client.session.inflight.count == 0


async def test_answers_count_until_they_are_written(connect: Connect) -> None:
    client = await connect(settings={"inflight_per_connection": 3}).greeted()
    client.send(*({"op": "leave", "room": "lobby"} for _ in range(3)))
    assert client.session.inflight.is_stalled
    await client.get(3)
    assert client.session.inflight.count == 0


async def test_what_arrived_is_caught_up_with_once_the_last_slice_of_it_is_handled(connect: Connect) -> None:
    client = await connect().greeted()
    inflight = client.session.inflight
    inflight.arrived = 1
    left = hand_over(client.driver, json.dumps([{"op": "send", "room": "lobby", "text": "hi"}] * 100), 64)
    caught_up = asyncio.create_task(client.driver.backpressure.caught_up())
    await settle()
    assert left == 36
    assert not caught_up.done()
    assert go_on(client.driver, 64) == 0
    inflight.handled = 1
    inflight.moved()
    await caught_up


async def test_a_slice_ends_where_its_connection_owes_and_goes_on_where_it_has_paid(connect: Connect) -> None:
    client = await connect().greeted()
    debt = client.session.inflight.debt
    left = hand_over(client.driver, json.dumps([{"op": "leave", "ref": n, "room": "den"} for n in range(100)]), 64)
    done = 100 - left
    assert 0 < done < 64
    assert go_on(client.driver, 64) == left
    assert [answer["ref"] for answer in await client.get(done)] == list(range(done))
    debt.is_due = False
    assert go_on(client.driver, 1) == left - 1
    assert (await client.one())["ref"] == done


async def test_a_frame_that_holds_nothing_is_charged(connect: Connect) -> None:
    client = await connect().greeted()
    for _ in range(200):
        hand_over(client.driver, "[]")
    assert client.session.inflight.debt.is_due


async def test_errors_that_are_spread_over_minutes_close_nobody(connect: Connect) -> None:
    client = await connect(settings={"protocol_errors_max": 10}).greeted()
    for _ in range(50):
        hand_over(client.driver, "x")
        client.gateway.clock.advance(6.0)
    assert client.socket.is_open()
    for _ in range(11):
        hand_over(client.driver, "x")
    assert client.socket.closed_with == (1008, "too many errors")


async def test_after_such_a_close_nothing_is_done(connect: Connect) -> None:
    client = await connect(settings={"protocol_errors_max": 8}).greeted()
    client.send(*[0] * 20, {"op": "send", "room": "lobby", "text": "hi"})
    client.say("hi")
    await settle()
    assert client.gateway.metrics.messages_received == 0
    assert client.gateway.metrics.errors == 9


async def test_reading_time_stands_still_while_the_connection_is_not_read_from(connect: Connect) -> None:
    client = await connect(manual=True, settings={"inflight_per_connection": 1}).greeted()
    client.say("one")
    before = client.session.inflight.reading_time()
    resumed = asyncio.create_task(client.driver.backpressure.resumed())
    await settle()
    client.gateway.clock.advance(3.0)
    assert client.session.inflight.reading_time() == before
    client.gateway.broker.confirm()
    await resumed
    assert client.session.inflight.reading_time() == before
