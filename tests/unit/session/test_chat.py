import asyncio
import json
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.adapters.websockets.driver import SessionDriver, drive_chat
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.session.chat import ChatSession
from chatflow.ports.errors import BrokerFull, BrokerUnavailable
from tests.harness.waiting import eventually
from tests.unit.fakes import FakeBroker, FakeGateway, hand_over, message_id, settle

DOWN = BrokerUnavailable("no broker")
RETRY = "Message queue unavailable, please retry"
GOOD: dict[str, object] = {
    "userId": "123",
    "username": "user123",
    "message": "hi",
    "timestamp": "2026-11-24T01:31:00.123Z",
    "messageType": "TEXT",
}


@attrs.define(eq=False)
class Client:
    """The far end of one ``/chat/5`` connection."""

    gateway: FakeGateway
    room: str = "5"
    socket: MemorySocket = attrs.field(factory=MemorySocket)
    session: ChatSession = attrs.field(init=False)
    driver: SessionDriver = attrs.field(init=False)
    raw: list[bytes] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.session = ChatSession(self.gateway.context, "10.0.0.1", self.room)
        self.driver = drive_chat(self.session, self.socket)

    def say(self, text: str, **changes: object) -> None:
        hand_over(self.driver, json.dumps({**GOOD, "message": text, **changes}))

    async def replies(self, count: int) -> list[dict[str, object]]:
        """Read until there are so many replies; then there must not be more."""

        def enough() -> bool:
            self.raw += self.socket.read()
            return len(self.raw) >= count

        await eventually(enough)
        await settle()
        self.raw += self.socket.read()
        assert len(self.raw) == count
        replies, self.raw = [json.loads(frame) for frame in self.raw], []
        return replies


Connect = Callable[..., Client]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def make(
        *, manual: bool = False, gateway: FakeGateway | None = None, room: str = "5", **settings: object
    ) -> Client:
        clients.append(Client(gateway or FakeGateway(broker=FakeBroker(manual=manual), **settings), room))
        return clients[-1]

    yield make
    for client in clients:
        client.driver.close()
        await client.gateway.close()
    await settle()


def statuses(replies: list[dict[str, object]]) -> list[object]:
    return [reply["status"] for reply in replies]


def texts(replies: list[dict[str, object]]) -> list[object]:
    return [original["message"] if (original := reply["originalMessage"]) else None for reply in replies]


async def test_a_frame_is_answered_with_success_once_the_broker_has_it(connect: Connect) -> None:
    client = connect(manual=True)
    client.say("hi")
    await eventually(lambda: client.gateway.broker.waiting)
    await settle()
    assert client.socket.read() == []
    client.gateway.broker.confirm()
    assert await client.replies(1) == [
        {
            "originalMessage": GOOD,
            "serverTimestamp": "2026-05-28T20:26:40.000Z",
            "status": "success",
            "messageId": message_id(1),
        }
    ]


async def test_replies_are_compact(connect: Connect) -> None:
    client = connect()
    client.say("hi")
    hand_over(client.driver, "{")
    await eventually(lambda: len(client.socket._sent) == 2)
    success, error = client.socket.read()
    assert b'"status":"success"' in success
    assert b'"status":"error","errorMessage":"malformed JSON"' in error


async def test_the_original_is_echoed_as_it_came_with_fields_that_mean_nothing_here(connect: Connect) -> None:
    client = connect()
    fields = {**GOOD, "userId": 123, "extra": [1, {"a": None}], "big": 2**80, "price": 1.5, "roomId": "x"}
    hand_over(client.driver, json.dumps(fields))
    (reply,) = await client.replies(1)
    assert reply["originalMessage"] == fields
    assert reply["status"] == "success"
    assert client.gateway.broker.confirmed[0].messages[0].room_id == "5"


async def test_a_clients_own_message_id_is_used_and_echoed(connect: Connect) -> None:
    client = connect()
    client.say("hi", messageId=message_id(99).upper())
    (reply,) = await client.replies(1)
    assert reply["messageId"] == message_id(99)
    assert client.gateway.broker.confirmed_ids() == [message_id(99)]


async def test_a_retry_after_a_refusal_with_the_same_id_is_published_under_it(connect: Connect) -> None:
    client = connect()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("hi", messageId=message_id(99))
    assert statuses(await client.replies(1)) == ["error"]
    client.say("hi", messageId=message_id(99))
    assert statuses(await client.replies(1)) == ["success"]
    attempts = [m.message_id for envelope in client.gateway.broker.attempts for m in envelope.messages]
    assert attempts == [message_id(99)] * 2


@pytest.mark.parametrize("frame", ["", "{", "hello", '{"a":1}x', "NaN", "[1,2", b"{}", b"\xff", "[" * 10_000])
async def test_what_is_not_json_is_answered_as_malformed(connect: Connect, frame: str | bytes) -> None:
    client = connect()
    hand_over(client.driver, frame)
    (reply,) = await client.replies(1)
    assert reply["originalMessage"] is None
    assert reply["status"] == "error"
    assert reply["errorMessage"] == "malformed JSON"
    assert client.socket.is_open()


@pytest.mark.parametrize("frame", ["[]", "1", "null", '"text"', "true"])
async def test_json_that_is_not_an_object_is_malformed_too(connect: Connect, frame: str) -> None:
    client = connect()
    hand_over(client.driver, frame)
    (reply,) = await client.replies(1)
    assert (reply["originalMessage"], reply["errorMessage"]) == (None, "malformed JSON")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"userId": None}, "userID is required"),
        ({"userId": "x"}, "userID must be a valid number"),
        ({"userId": 0}, "userID must be between 1 and 9007199254740991"),
        ({"username": ""}, "username is required"),
        ({"username": "a b"}, "username must be alphanumeric (only letters and numbers)"),
        ({"username": "ab"}, "username must be between 3 and 20 characters"),
        ({"message": ""}, "message is required"),
        ({"message": "x" * 501}, "message must be 1-500 characters"),
        ({"messageType": ""}, "messageType is required"),
        ({"messageType": "X"}, "messageType must be TEXT, JOIN, or LEAVE"),
        ({"timestamp": ""}, "timestamp is required"),
        ({"timestamp": "now"}, "timestamp must be a valid ISO 8601 format"),
    ],
)
async def test_a_broken_rule_is_answered_in_its_words_and_the_socket_stays_open(
    connect: Connect, changes: dict[str, object], error: str
) -> None:
    client = connect()
    hand_over(client.driver, json.dumps({**GOOD, **changes}))
    client.say("next")
    first, second = await client.replies(2)
    assert first["status"] == "error"
    assert first["errorMessage"] == error
    assert first["originalMessage"] == {**GOOD, **changes}
    assert "messageId" not in first
    assert second["status"] == "success"
    assert client.gateway.metrics.errors == 1
    assert client.gateway.metrics.messages_received == 2


async def test_replies_come_in_the_order_of_the_frames_whatever_their_fate(connect: Connect) -> None:
    client = connect(manual=True)
    client.say("one")
    await eventually(lambda: client.gateway.broker.waiting)
    hand_over(client.driver, "{")
    client.say("")
    client.say("two")
    hand_over(client.driver, "[]")
    await settle()
    assert client.socket.read() == []
    client.gateway.broker.confirm()
    assert statuses(await client.replies(3)) == ["success", "error", "error"]
    await eventually(lambda: client.gateway.broker.waiting)
    client.gateway.broker.confirm()
    replies = await client.replies(2)
    assert statuses(replies) == ["success", "error"]
    assert texts(replies) == ["two", None]


@pytest.mark.parametrize("error", [DOWN, BrokerFull("full")])
async def test_an_unavailable_broker_is_answered_as_retryable(connect: Connect, error: Exception) -> None:
    client = connect()
    client.gateway.broker.outcomes.append(error)
    client.say("hi")
    (reply,) = await client.replies(1)
    assert (reply["status"], reply["errorMessage"]) == ("error", RETRY)
    assert texts([reply]) == ["hi"]


async def test_an_open_breaker_is_answered_the_same_way_without_asking_the_broker(connect: Connect) -> None:
    client = connect()
    for _ in range(5):
        client.gateway.publisher.breaker.failure()
    client.say("hi")
    (reply,) = await client.replies(1)
    assert reply["errorMessage"] == RETRY
    assert client.gateway.broker.attempts == []


async def test_a_draining_gateway_is_answered_the_same_way(connect: Connect) -> None:
    client = connect()
    await client.gateway.publisher.drain()
    client.say("hi")
    (reply,) = await client.replies(1)
    assert reply["errorMessage"] == RETRY


async def test_what_follows_a_refused_frame_is_refused_until_the_peer_has_read_it(connect: Connect) -> None:
    client = connect()
    client.gateway.broker.outcomes.append(DOWN)
    client.say("one")
    await eventually(lambda: client.socket._sent)
    client.say("two")  # was on its way when the refusal of one was sent
    await settle()
    replies = await client.replies(2)
    assert statuses(replies) == ["error", "error"]
    client.say("one")
    client.say("two")
    assert statuses(await client.replies(2)) == ["success", "success"]
    sent = [m.text for envelope in client.gateway.broker.confirmed for m in envelope.messages]
    assert sent == ["one", "two"]


async def test_the_fence_stays_up_while_the_refusal_waits_behind_an_earlier_reply(connect: Connect) -> None:
    """The refusal of two is known but not sent, since one has no reply yet: three must not overtake two."""
    filler = connect(manual=True, limit_bytes=1_000, room=room_beside("5"))
    client = connect(gateway=filler.gateway)
    client.say("one")
    filler.say("x" * 500)
    filler.say("x" * 500)
    client.say("two")  # refused: the gateway holds its limit
    await eventually(lambda: len(client.gateway.broker.waiting) == 2)
    settle_publish_of(client.gateway, filler.room)
    await eventually(lambda: client.gateway.publisher.pending_bytes < 1_000)
    await settle()
    client.socket.read()  # the peer reads all there is, but the refusal was not sent
    await settle()
    client.say("three")
    settle_publish_of(client.gateway, client.room)
    replies = await client.replies(3)
    assert texts(replies) == ["one", "two", "three"]
    assert statuses(replies) == ["success", "error", "error"]


def room_beside(room: str) -> str:
    """A room of another partition."""
    return next(str(n) for n in range(100) if partition_of(str(n), 8) != partition_of(room, 8))


def settle_publish_of(gateway: FakeGateway, room: str) -> None:
    """Confirm the publish that waits for this room."""
    for n, (envelope, future) in enumerate(gateway.broker.waiting):
        if envelope.messages[0].room_id == room:
            gateway.broker.waiting.pop(n)
            future.set_result(None)
            return
    raise AssertionError("nothing waits for this room")


async def test_frames_without_a_reply_count_against_the_limit_whatever_their_fate(connect: Connect) -> None:
    client = connect(manual=True, settings={"inflight_per_connection": 3})
    client.say("one")
    assert not client.session.inflight.is_stalled
    hand_over(client.driver, "{")
    hand_over(client.driver, "{")
    assert client.session.inflight.is_stalled  # their replies wait behind the first, and must not pile up
    resumed = asyncio.create_task(client.driver.backpressure.resumed())
    await eventually(lambda: client.gateway.broker.waiting)
    assert not resumed.done()
    client.gateway.broker.confirm()
    await resumed
    assert client.session.inflight.count == 0
    assert len(await client.replies(3)) == 3


async def test_a_connection_that_ended_keeps_what_it_offered_and_tells_nobody(connect: Connect) -> None:
    client = connect(manual=True)
    client.say("one")
    await eventually(lambda: client.gateway.broker.waiting)
    client.socket.close(1001, "gone")
    client.driver.close()
    client.gateway.broker.confirm()
    await eventually(lambda: client.gateway.broker.confirmed)
    await settle()
    assert client.socket.read() == []
    assert client.gateway.ingest.messages_published == 1


async def test_a_thousand_frames_get_a_thousand_replies_in_order_over_a_shaky_broker(connect: Connect) -> None:
    client = connect()
    client.gateway.broker.outcomes.extend(DOWN if n % 4 == 1 else None for n in range(200))
    received: list[dict[str, object]] = []
    for n in range(1_000):
        client.say(str(n))
        if n % 7 == 0:
            await settle(3)
        if n % 40 == 0:
            received += [json.loads(frame) for frame in client.socket.read()]
    client.raw = []
    received += await client.replies(1_000 - len(received))
    assert texts(received) == [str(n) for n in range(1_000)]
    accepted = [reply["messageId"] for reply in received if reply["status"] == "success"]
    assert accepted == client.gateway.broker.confirmed_ids()
    assert 0 < len(accepted) < 1_000


async def test_a_message_id_that_stood_for_another_text_is_refused_for_good(connect: Connect) -> None:
    client = connect()
    for text, user in [("hi", 7), ("ho", 7), ("ho", 8), ("hi", 7)]:
        client.say(text, messageId=message_id(99), userId=user)
    replies = await client.replies(4)
    assert statuses(replies) == ["success", "error", "success", "success"]
    assert replies[1]["errorMessage"] == "the message id was used before, with another room or text"
    assert client.gateway.metrics.conflicts == 1


async def test_a_conflict_that_the_confirm_tells_is_refused_in_its_place(connect: Connect) -> None:
    client = connect(manual=True)
    for text in ("one", "two", "three"):
        client.say(text, messageId=message_id(len(text)) if text == "two" else None)
    await eventually(lambda: client.gateway.broker.waiting)
    conflicts = client.gateway.publisher.conflicts
    conflicts.limit = 9
    conflicts.add(client.gateway.broker.waiting[0][0].messages[1])
    client.gateway.broker.confirm()
    assert statuses(await client.replies(3)) == ["success", "error", "success"]
    assert client.session.inflight.count == 0
