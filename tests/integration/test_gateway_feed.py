"""``/feed/{room}`` on the wire: what is stored, as it commits, and nothing else."""

import asyncio

import pytest

from chatflow.ports.errors import StoreUnavailable
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import BINARY, TEXT, chat, frame, new_id, open_gateway
from tests.unit.fakes import messages


@pytest.fixture(params=[False, True], ids=["all parts", "public parts"])
async def gateway(request):
    async with open_gateway(server={"driver_fallback": request.param}, protocol_errors_max=1_000) as opened:
        yield opened


async def post(gateway, room, *texts):
    async with gateway.peer(f"/chat/{room}") as peer:
        await peer.send(*(chat(message=text) for text in texts))
        return [await peer.receive() for _ in texts]


async def follow(gateway, feed, room):
    """Post until the feed shows something: from then on it is live."""
    posted = 0
    while not feed.connection.recv_messages.frames:
        posted += 1
        await post(gateway, room, f"probe{posted}")
        await asyncio.sleep(0)
    return await feed.receive(), posted


async def test_a_live_frame_has_exactly_the_fields_of_the_contract(gateway):
    async with gateway.peer("/feed/room5") as feed:
        await follow(gateway, feed, "5")
        mine = new_id()
        async with gateway.peer("/chat/5") as peer:
            await peer.send(chat(messageId=mine, message="look", messageType="JOIN", userId=9))
            reply = await peer.receive()
        while (shown := await feed.receive())["messageId"] != mine:
            pass
    assert shown == {
        "messageId": mine,
        "roomId": "5",
        "seq": len(gateway.texts("5")),
        "userId": 9,
        "username": "user123",
        "message": "look",
        "messageType": "JOIN",
        "timestamp": "2026-11-24T01:31:00.123Z",
        "serverTimestamp": reply["serverTimestamp"],
    }


async def test_without_since_only_what_comes_later_is_shown(gateway):
    gateway.store.put(*messages(1, 20))
    async with gateway.peer("/feed/lobby") as feed:
        first, posted = await follow(gateway, feed, "lobby")
    assert 20 < first["seq"] <= 20 + posted


async def test_since_replays_and_then_goes_live_without_a_gap_or_a_double(gateway):
    gateway.store.put(*messages(1, 350))
    stop = asyncio.Event()

    async def keep_posting():
        async with gateway.peer("/chat/lobby") as peer:
            while not stop.is_set():
                await peer.send(*(chat(message="live") for _ in range(20)))
                for _ in range(20):
                    await peer.receive()

    posting = asyncio.create_task(keep_posting())
    await eventually(lambda: len(gateway.store.rooms["lobby"]) > 400)
    async with gateway.peer("/feed/lobby?since=5") as feed:
        seen = [(await feed.receive())["seq"] for _ in range(1_000)]
    stop.set()
    await posting
    assert seen == list(range(6, 1_006))


async def test_since_zero_shows_a_room_from_its_first_message(gateway):
    gateway.store.put(*messages(1, 3))
    async with gateway.peer("/feed/lobby?since=0") as feed:
        assert [(await feed.receive())["seq"] for _ in range(3)] == [1, 2, 3]
        await post(gateway, "lobby", "four")
        assert (await feed.receive())["message"] == "four"


async def test_a_past_of_any_length_is_replayed_since_nothing_would_tell_that_it_is_not(gateway):
    gateway.store.put(*messages(1, gateway.context.hub.replay_limit + 500))
    async with gateway.peer("/feed/lobby?since=5") as feed:
        assert [(await feed.receive())["seq"] for _ in range(1_495)] == list(range(6, 1_501))


@pytest.mark.parametrize("since", ["-1", "x", "1.5", "٣", "9" * 19, "1e3", "0x1", "%00"])
async def test_a_bad_since_closes_with_policy(gateway, since):
    async with gateway.peer(f"/feed/lobby?since={since.encode().decode('latin-1')}") as feed:
        code, reason = await feed.closed()
    assert code == 1008
    assert reason.startswith("Invalid since")


async def test_a_bad_room_closes_with_policy(gateway):
    async with gateway.peer("/feed/a%20b") as feed:
        code, reason = await feed.closed()
    assert (code, reason[:14]) == (1008, "Invalid roomId")


async def test_a_since_beyond_the_head_is_harmless(gateway):
    gateway.store.put(*messages(1, 3))
    async with gateway.peer("/feed/lobby?since=999999") as feed:
        first, posted = await follow(gateway, feed, "lobby")
        assert 3 < first["seq"] <= 3 + posted


async def test_what_a_client_sends_is_ignored(gateway):
    raw = await gateway.raw("/feed/lobby?since=0")
    for n in range(200):
        raw.send(chat(message=f"no {n}"))
        raw.write(frame(TEXT, b"\x00garbage") + frame(BINARY, b"\xff"))
    await post(gateway, "lobby", "yes")
    opcode, payload = await raw.read_frame()
    assert opcode == TEXT
    assert b'"message":"yes"' in payload
    assert gateway.texts("lobby") == ["yes"]
    await raw.close()


async def test_a_store_that_cannot_be_read_closes_with_try_again(gateway):
    gateway.store.down = StoreUnavailable("gone")
    async with gateway.peer("/feed/lobby?since=0") as feed:
        code, _ = await feed.closed()
    gateway.store.down = None
    assert code == 1013
