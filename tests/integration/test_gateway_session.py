"""``/ws`` on the wire: the whole table of the session protocol."""

import asyncio
import re

import pytest

from chatflow.adapters.websockets import server as server_module
from chatflow.ports.errors import StoreUnavailable
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import PING, TEXT, frame, new_id, open_gateway, send
from tests.unit.fakes import messages

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HELLO = {"op": "hello", "userId": 7, "username": "ada"}


@pytest.fixture(params=[False, True], ids=["all parts", "public parts"])
async def gateway(request):
    async with open_gateway(server={"driver_fallback": request.param}) as opened:
        yield opened


@pytest.fixture
async def peer(gateway):
    async with gateway.session() as opened:
        yield opened


async def ask(peer, value):
    await peer.send(value)
    return await peer.receive()


async def test_hello_is_welcomed_with_a_session_of_its_own(gateway):
    sessions = set()
    for _ in range(3):
        async with gateway.peer("/ws") as peer:
            welcome = await ask(peer, HELLO)
        sessions.add(welcome.pop("session"))
        assert welcome == {"op": "welcome", "userId": 7, "username": "ada", "heartbeat": 25}
    assert len(sessions) == 3


async def test_whole_seconds_of_the_heartbeat_are_written_as_an_integer():
    async with open_gateway(heartbeat_s=25.0) as gateway, gateway.peer("/ws") as peer:
        await peer.send(HELLO)
        assert '"heartbeat":25}' in await peer.receive_text()


async def test_no_hello_in_time_closes_with_4401():
    async with open_gateway(hello_timeout_s=0.1) as gateway, gateway.peer("/ws") as peer:
        assert (await peer.closed())[0] == 4401


async def test_a_hello_that_is_not_valid_does_not_stop_the_clock():
    async with open_gateway(hello_timeout_s=0.2) as gateway, gateway.peer("/ws") as peer:
        bad = await ask(peer, {"op": "hello", "userId": 0, "username": "ada"})
        assert (bad["op"], bad["code"]) == ("error", "invalid_message")
        assert (await peer.closed())[0] == 4401


async def test_a_hello_in_time_keeps_the_connection():
    async with open_gateway(hello_timeout_s=0.1) as gateway, gateway.session() as peer:
        await asyncio.sleep(0.15)
        assert (await ask(peer, send("lobby")))["op"] == "ack"


@pytest.mark.parametrize("op", ["send", "join", "leave"])
async def test_nothing_is_done_before_hello(gateway, op):
    async with gateway.peer("/ws") as peer:
        refused = await ask(peer, {"op": op, "ref": 1, "room": "lobby", "text": "hi"})
        assert (refused["code"], refused["ref"], refused["retryable"]) == ("unauthorized", 1, False)
    assert gateway.store.by_id == {}


async def test_a_second_hello_is_an_error_and_changes_nothing(gateway, peer):
    assert (await ask(peer, HELLO | {"ref": 2}))["code"] == "malformed"
    await ask(peer, send("lobby"))
    assert gateway.store.rooms["lobby"][0].message.user_id == 7
    assert gateway.store.rooms["lobby"][0].message.username == "user7"


async def test_a_token_where_none_is_accepted_is_unauthorized(gateway):
    async with gateway.peer("/ws") as peer:
        assert (await ask(peer, HELLO | {"token": "x"}))["code"] == "unauthorized"


async def test_an_ack_has_exactly_the_fields_of_the_contract_and_means_stored(gateway, peer):
    mine = new_id()
    ack = await ask(peer, send("room5", ref=3, id=mine.upper()))
    assert list(ack) == ["op", "ref", "id", "at"]
    assert (ack["ref"], ack["id"]) == (3, mine)
    assert ISO.fullmatch(ack["at"])
    assert gateway.store.ids("5") == [mine]


@pytest.mark.parametrize(
    "ref", [0, -1, 2**53, 2**64, -(2**63), 10**40, "", "a", 'quo"te\\', "\u0000", "ö😀", "x" * 4_000]
)
async def test_any_string_or_integer_is_echoed_as_ref(peer, ref):
    assert (await ask(peer, send("lobby", ref=ref)))["ref"] == ref
    assert (await ask(peer, send("-bad room-", ref=ref)))["ref"] == ref
    assert (await ask(peer, {"op": "join", "room": "lobby", "ref": ref}))["ref"] == ref
    assert (await ask(peer, {"op": "leave", "room": "lobby", "ref": ref}))["ref"] == ref


@pytest.mark.parametrize("ref", [True, 1.5, [], {}, [1]])
async def test_another_kind_of_ref_is_malformed(gateway, peer, ref):
    refused = await ask(peer, send("lobby", ref=ref))
    assert refused["code"] == "malformed"
    assert "ref" not in refused
    assert gateway.texts("lobby") == []


async def test_without_a_ref_there_is_none_in_the_answer(peer):
    assert "ref" not in await ask(peer, send("lobby"))
    assert "ref" not in await ask(peer, send("lobby", ref=None))


@pytest.mark.parametrize(
    ("frame_", "code"),
    [
        ({"op": "send", "room": "lobby"}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": ""}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": "x" * 501}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": 5}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": "x", "id": "no"}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": "x", "ack": "later"}, "invalid_message"),
        ({"op": "send", "room": "lobby", "text": "x", "ack": ["stored"]}, "invalid_message"),
        ({"op": "send", "text": "x"}, "invalid_room"),
        ({"op": "send", "room": "", "text": "x"}, "invalid_room"),
        ({"op": "send", "room": "a b", "text": "x"}, "invalid_room"),
        ({"op": "send", "room": "a" * 65, "text": "x"}, "invalid_room"),
        ({"op": "send", "room": 5, "text": "x"}, "invalid_room"),
        ({"op": "join", "room": "ä"}, "invalid_room"),
        ({"op": "leave", "room": None}, "invalid_room"),
        ({"op": "join", "room": "lobby", "since": -1}, "malformed"),
        ({"op": "join", "room": "lobby", "since": "1"}, "malformed"),
        ({"op": "join", "room": "lobby", "since": 2**63}, "malformed"),
        ({"op": "join", "room": "lobby", "since": True}, "malformed"),
        ({"op": "dance"}, "malformed"),
        ({"op": ["send"]}, "malformed"),
        ({}, "malformed"),
    ],
)
async def test_anything_wrong_is_an_error_with_its_ref_and_code(gateway, peer, frame_, code):
    refused = await ask(peer, frame_ | {"ref": "r"})
    assert list(refused) == ["op", "ref", "code", "message", "retryable"]
    assert (refused["op"], refused["ref"], refused["code"], refused["retryable"]) == ("error", "r", code, False)
    assert refused["message"]
    assert gateway.store.by_id == {}
    assert gateway.context.hub.active_rooms == 0


@pytest.mark.parametrize(
    "text", ["", "x", "5", "null", '"send"', "[" * 16_000, '{"op":"\\ud800"}', "\x00", "[1,", "1" * 9_000]
)
async def test_what_is_no_frame_is_malformed_and_the_socket_stays_open(peer, text):
    await peer.send_text(text)
    assert (await peer.receive())["code"] == "malformed"
    assert (await ask(peer, send("lobby")))["op"] == "ack"


async def test_an_array_is_handled_in_order_and_each_object_is_answered(gateway, peer):
    await peer.send(
        [send("a", "1", ref=1), 5, {"op": "leave", "room": "a", "ref": 3}, send("a", "2", ref=4), [], send("b", ref=6)]
    )
    answers = [await peer.receive() for _ in range(6)]
    assert sorted(answer["op"] for answer in answers) == ["ack", "ack", "ack", "error", "error", "left"]
    assert {answer["ref"] for answer in answers if answer["op"] == "ack"} == {1, 4, 6}
    assert gateway.texts("a") == ["1", "2"]


async def test_an_empty_array_asks_for_nothing(peer):
    await peer.send([])
    await peer.silence()


async def test_hello_join_and_send_may_travel_in_one_array(gateway):
    async with gateway.peer("/ws") as peer:
        await peer.send([HELLO, {"op": "join", "room": "lobby", "ref": 1, "since": 0}, send("lobby", ref=2)])
        ops = [(await peer.receive())["op"] for _ in range(4)]
    assert ops[0] == "welcome"
    assert sorted(ops) == ["ack", "joined", "message", "welcome"]


async def test_acks_of_messages_that_were_confirmed_together_share_frames(peer):
    await peer.send([send("lobby", ref=n) for n in range(200)])
    frames, acks = 0, 0
    while acks < 200:
        frames += 1
        acks += (await peer.receive_text()).count('"op":"ack"')
    assert acks == 200
    assert frames <= 10


async def test_a_stored_ack_carries_the_seq(gateway, peer):
    acks = [await ask(peer, send("lobby", ack="stored", ref=n)) for n in range(3)]
    assert [list(ack) for ack in acks] == [["op", "ref", "id", "at", "seq"]] * 3
    assert [ack["seq"] for ack in acks] == [1, 2, 3]
    assert gateway.store.ids("lobby") == [ack["id"] for ack in acks]


async def test_a_repeated_id_is_stored_once_and_acked_each_time(gateway, peer):
    mine = new_id()
    await peer.send([send("lobby", id=mine, ref=1), send("lobby", id=mine, ref=2, ack="stored")])
    await peer.send(send("lobby", id=mine, ref=3, ack="stored"), send("lobby", id=mine, ref=4))
    acks = await peer.collect("ack", 4)
    assert {ack["ref"] for ack in acks} == {1, 2, 3, 4}
    assert {ack["id"] for ack in acks} == {mine}
    assert {ack.get("seq", 1) for ack in acks} == {1}
    assert gateway.store.ids("lobby") == [mine]


async def test_a_stored_ack_comes_although_the_live_channel_lost_the_message(gateway, peer):
    gateway.live._subscriptions.clear()
    assert (await ask(peer, send("lobby", ack="stored")))["seq"] == 1


async def test_joined_tells_the_head_and_messages_follow_with_exactly_their_fields(gateway, peer):
    gateway.store.put(*messages(1, 3))
    joined = await ask(peer, {"op": "join", "ref": "j", "room": "lobby"})
    assert joined == {"op": "joined", "ref": "j", "room": "lobby", "head": 3, "recovered": True}
    mine = new_id()
    await peer.send(send("lobby", "hello 😀\u0000", id=mine))
    (shown,), (ack,) = sorted([[await peer.receive()], [await peer.receive()]], key=lambda one: one[0]["op"] == "ack")
    assert shown == {
        "op": "message",
        "room": "lobby",
        "seq": 4,
        "id": mine,
        "userId": 7,
        "username": "user7",
        "type": "TEXT",
        "text": "hello 😀\u0000",
        "at": ack["at"],
    }


async def test_since_replays_what_was_missed_and_then_goes_live(gateway, peer):
    gateway.store.put(*messages(1, 250))
    joined = await ask(peer, {"op": "join", "room": "lobby", "since": 41})
    assert (joined["head"], joined["recovered"]) == (250, True)
    async with gateway.session(user_id=8) as other:
        for _ in range(5):
            await ask(other, send("lobby"))
    seqs = [message["seq"] for message in await peer.collect("message", 214)]
    assert seqs == list(range(42, 256))


@pytest.mark.parametrize("since", [0, 5, 999_999])
async def test_recovered_is_false_when_the_past_is_too_long_or_unknown(since):
    async with open_gateway(hub={"replay_limit": 10}) as gateway, gateway.session() as peer:
        gateway.store.put(*messages(1, 30))
        joined = await ask(peer, {"op": "join", "room": "lobby", "since": since})
        assert (joined["head"], joined["recovered"]) == (30, False)
        await peer.send(send("lobby"))
        assert (await peer.collect("message", 1))[0]["seq"] == 31


async def test_a_room_that_nobody_wrote_in_has_head_zero(peer):
    joined = await ask(peer, {"op": "join", "room": "empty", "since": 0})
    assert (joined["head"], joined["recovered"]) == (0, True)


async def test_after_left_nothing_of_the_room_arrives(gateway, peer):
    await ask(peer, {"op": "join", "room": "lobby"})
    assert await ask(peer, {"op": "leave", "ref": 2, "room": "lobby"}) == {"op": "left", "ref": 2, "room": "lobby"}
    async with gateway.session(user_id=8) as other:
        await ask(other, send("lobby"))
    await peer.silence()


async def test_leaving_a_room_that_was_not_joined_is_answered_all_the_same(peer):
    assert (await ask(peer, {"op": "leave", "room": "lobby"}))["op"] == "left"


async def test_joining_again_with_since_starts_over_from_there(gateway, peer):
    gateway.store.put(*messages(1, 9))
    for since in (9, 4, 0):
        joined = await ask(peer, {"op": "join", "room": "lobby", "since": since})
        assert joined["op"] == "joined"
        seqs = [message["seq"] for message in await peer.collect("message", 9 - since)]
        assert seqs == list(range(since + 1, 10))
    await peer.send(send("lobby"))
    assert {(await peer.receive())["op"] for _ in range(2)} == {"message", "ack"}
    await peer.silence()


async def test_of_joins_that_follow_each_other_at_once_each_member_gets_each_message_once(gateway, peer):
    gateway.store.put(*messages(1, 50))
    await peer.send([{"op": "join", "room": "lobby", "since": 0, "ref": n} for n in range(50)])
    answers = [await peer.receive() for _ in range(50)]
    assert [answer["ref"] for answer in answers] == list(range(50))
    assert answers[-1]["op"] == "joined"
    assert all(answer["op"] == "joined" or answer["retryable"] for answer in answers)
    seqs = [message["seq"] for message in await peer.collect("message", 50)]
    assert seqs == list(range(1, 51))
    await peer.silence()


async def test_a_message_is_delivered_to_every_member_on_its_own_connection_once(gateway):
    async with gateway.session(user_id=1) as one, gateway.session(user_id=2) as two:
        for member in (one, two):
            await ask(member, {"op": "join", "room": "lobby"})
        await one.send([send("lobby", str(n)) for n in range(100)])
        for member in (one, two):
            assert [m["seq"] for m in await member.collect("message", 100)] == list(range(1, 101))


async def test_the_number_of_rooms_of_one_connection_is_limited():
    async with open_gateway(rooms_per_connection=3) as gateway, gateway.session() as peer:
        for room in "abc":
            assert (await ask(peer, {"op": "join", "room": room}))["op"] == "joined"
        assert (await ask(peer, {"op": "join", "room": "d"}))["code"] == "forbidden"
        await ask(peer, {"op": "leave", "room": "a"})
        assert (await ask(peer, {"op": "join", "room": "d"}))["op"] == "joined"


async def test_a_join_while_the_store_is_away_is_unavailable_and_works_again_afterwards(gateway, peer):
    gateway.store.down = StoreUnavailable("gone")
    refused = await ask(peer, {"op": "join", "room": "lobby", "ref": 1})
    assert (refused["code"], refused["retryable"], refused["ref"]) == ("unavailable", True, 1)
    assert "gone" not in refused["message"]
    gateway.store.down = None
    assert (await ask(peer, {"op": "join", "room": "lobby"}))["op"] == "joined"


async def test_a_frame_over_the_limit_closes_with_1009(gateway):
    async with gateway.session() as peer:
        await peer.send_text("x" * 16_384)
        assert (await peer.receive())["code"] == "malformed"
        await peer.send_text("x" * 16_385)
        assert (await peer.closed())[0] == 1009


async def test_a_silent_peer_is_dropped_and_one_that_answers_pings_stays(monkeypatch):
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    async with open_gateway(sweep=True, heartbeat_s=0.15) as gateway, gateway.session() as alive:
        silent = await gateway.raw("/ws")
        silent.send(HELLO)
        assert (await silent.read_frame())[0] == TEXT
        assert (await silent.read_frame())[0] == PING
        await silent.read_all()
        assert gateway.metrics.silent_peers_dropped == 1
        await eventually(lambda: alive.connection.state.name != "OPEN" or gateway.metrics.connections_open == 1)
        assert (await ask(alive, send("lobby")))["op"] == "ack"
        await silent.close()


async def test_a_peer_that_talks_but_does_not_answer_pings_is_not_silent(monkeypatch):
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    async with open_gateway(sweep=True, heartbeat_s=0.1) as gateway:
        raw = await gateway.raw("/ws")
        raw.send(HELLO)
        pings = 0
        while pings < 5:
            opcode, _ = await raw.read_frame()
            pings += opcode == PING
            raw.write(frame(TEXT, b"[]"))
        assert gateway.metrics.silent_peers_dropped == 0
        await raw.close()
