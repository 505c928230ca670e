"""Clients that make work without sending anything: they wait in line, and the others do not notice."""

import asyncio

import msgspec
import pytest

from chatflow.adapters.websockets import server, sockets
from chatflow.domain.session.ws import WsSession
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import PING, TEXT, chat, frame, open_gateway, send

HELLO = {"op": "hello", "userId": 66, "username": "mallory"}
LARGE = {"frame_max_bytes": 2**20}
ITEMS = 8_000


@pytest.fixture
async def gateway():
    async with open_gateway(server=LARGE) as opened:
        yield opened


@pytest.fixture
def handled(monkeypatch):
    """How many items sessions have handled."""
    count = [0]
    handle = WsSession._handle

    def counted(self, item):
        count[0] += 1
        handle(self, item)

    monkeypatch.setattr(WsSession, "_handle", counted)
    return lambda: count[0]


def array(*items):
    return frame(TEXT, msgspec.json.encode(items))


def leaves(count):
    return [{"op": "leave", "ref": n, "room": "nowhere"} for n in range(count)]


async def answers(raw, count):
    """So many objects, whatever frames they come in."""
    found = []
    while len(found) < count:
        opcode, payload = await raw.read_frame()
        assert opcode == TEXT, (opcode, payload)
        value = msgspec.json.decode(payload)
        found += value if isinstance(value, list) else [value]
    return found


async def test_a_polite_message_is_acked_before_a_long_frame_is_worked_off(gateway, handled):
    hostile = await gateway.raw("/ws")
    async with gateway.session() as polite:
        hostile.send(HELLO)
        await eventually(lambda: handled() == 2)
        hostile.write(array(*leaves(ITEMS)))
        await eventually(lambda: handled() > 2)
        await polite.send(send("lobby"))
        await polite.expect("ack")
        assert handled() < ITEMS
    hostile.reset()


async def test_a_long_frame_is_worked_off_to_its_end_in_order(gateway):
    raw = await gateway.raw("/ws")
    raw.write(array(HELLO, *leaves(1_000)))
    welcome, *left = await answers(raw, 1_001)
    assert welcome["op"] == "welcome"
    assert [(answer["op"], answer["ref"]) for answer in left] == [("left", n) for n in range(1_000)]
    await raw.close()


async def test_the_messages_of_a_long_frame_are_stored_in_order(gateway):
    async with gateway.session() as sender:
        await sender.send([send("lobby", str(n)) for n in range(1_000)])
        await sender.send([send("lobby", str(n)) for n in range(1_000, 1_100)])
        await sender.collect("ack", 1_100)
    assert gateway.texts("lobby") == [str(n) for n in range(1_100)]


@pytest.mark.parametrize("size", [1, 0])
async def test_a_polite_message_is_acked_before_tiny_frames_are_worked_off(gateway, size):
    hostile = await gateway.raw("/chat/lobby")
    async with gateway.session() as polite:
        hostile.write(frame(TEXT, b"x" * size) * 20_000)
        await eventually(lambda: gateway.metrics.errors)
        await polite.send(send("lobby"))
        await polite.expect("ack")
        assert gateway.metrics.errors < 20_000
    hostile.reset()


async def test_twenty_who_ping_without_a_pause_hold_nobody_up(gateway):
    hostile = [await gateway.raw("/ws") for _ in range(20)]
    async with gateway.session() as polite:
        for raw in hostile:
            raw.send(HELLO)
            raw.write(frame(PING) * 60_000)
        for n in range(20):
            await polite.send(send("lobby", ref=n))
            assert (await polite.expect("ack"))["ref"] == n
        pending = [connection._ahead for connection in gateway.server._open.connections if connection._ahead]
        assert len(pending) == 20
    for raw in hostile:
        raw.reset()


@pytest.mark.parametrize("junk", [b"x", b"", b"[" + b",".join([b"0"] * 8_000) + b"]", b'{"op":"sing"}', b"[" * 16_000])
async def test_who_does_not_speak_the_protocol_is_closed_with_1008(junk):
    async with open_gateway() as gateway:
        raw = await gateway.raw("/ws")
        raw.send(HELLO)
        raw.write(frame(TEXT, junk) * 200)
        assert await raw.read_close() == (1008, "too many errors")
        assert gateway.metrics.errors <= 200
        await raw.close()
        await eventually(lambda: gateway.metrics.protocol_violators_dropped == 1)


@pytest.mark.parametrize("junk", [b"x", b"[" + b",".join([b"0"] * 8_000) + b"]", b'{"op":"join","room":"a"}'])
async def test_who_says_much_before_hello_is_closed_with_4401(junk):
    async with open_gateway() as gateway:
        raw = await gateway.raw("/ws")
        raw.write(frame(TEXT, junk) * 200)
        assert await raw.read_close() == (4401, "too much before hello")
        assert gateway.metrics.errors <= 130
        await raw.close()


async def test_who_mistypes_is_never_closed(gateway):
    async with gateway.session() as peer:
        await peer.send([send("lobby", "") for _ in range(150)], [send("no such room!") for _ in range(150)])
        assert {answer["code"] for answer in await peer.collect("error", 300)} == {"invalid_message", "invalid_room"}
        await peer.send(send("lobby"))
        await peer.expect("ack")


async def test_on_chat_every_refused_frame_gets_its_reply_in_order_and_nobody_is_closed(gateway):
    async with gateway.peer("/chat/lobby") as peer:
        for n in range(500):
            await peer.send_text("x" if n % 2 else msgspec.json.encode(chat(message="", n=n)).decode())
        await peer.send(chat(n=500))
        replies = [await peer.receive() for _ in range(501)]
    errors = [reply["errorMessage"] for reply in replies[:500]]
    assert errors == ["message is required", "malformed JSON"] * 250
    assert [reply["originalMessage"]["n"] for reply in replies[:500:2]] == list(range(0, 500, 2))
    assert replies[500]["status"] == "success"


async def test_who_floods_a_feed_is_closed():
    async with open_gateway() as gateway:
        raw = await gateway.raw("/feed/lobby")
        raw.write(frame(TEXT, b"x") * 5_000)
        assert (await raw.read_close())[0] == 1008
        await raw.close()


async def test_a_page_that_comes_back_to_500_rooms_joins_them_all_with_few_reads(gateway):
    async with gateway.session() as page:
        before = gateway.store.count("heads")
        for first in range(0, 500, 50):
            await page.send([{"op": "join", "room": f"r{n}", "ref": n, "since": 0} for n in range(first, first + 50)])
        joined = await page.collect("joined", 500)
        assert {answer["ref"] for answer in joined} == set(range(500))
        assert gateway.store.count("heads") - before < 200
        await page.send(send("elsewhere"))
        await page.expect("ack")


async def test_a_peer_that_reads_no_errors_gets_no_more_of_them(handled):
    async with open_gateway(server=LARGE) as gateway:
        raw = await gateway.raw("/ws", receive_buffer=4_096)
        raw.send(HELLO)
        raw.write(array(*[send("lobby", "", ref="r" * 500) for _ in range(1_500)]) * 20)
        held = -1
        while handled() != held:
            held = handled()
            await asyncio.sleep(0.3)
        assert held < 30_000
        assert gateway.metrics.slow_readers_dropped == 0
        assert all(each.transport.get_write_buffer_size() < 2**18 for each in gateway.server._open.connections)
        raw.reset()


async def test_over_the_budget_of_all_the_largest_holder_is_closed_and_the_others_miss_nothing():
    async with open_gateway(connection_memory_bytes=256 * 2**10) as gateway:
        stuck = [await gateway.raw("/feed/lobby", receive_buffer=4_096) for _ in range(4)]
        await eventually(lambda: len(gateway.context.hub._rooms["lobby"].live) == 1)
        async with gateway.session() as reader, gateway.session(user_id=8) as sender:
            await reader.send({"op": "join", "room": "lobby"})
            await reader.expect("joined")
            sent = 0
            while gateway.metrics.memory_holders_dropped < 4:
                await sender.send([send("lobby", "x" * 500) for _ in range(25)])
                await sender.collect("ack", 25)
                sent += 25
                assert sent < 20_000, "nobody was closed"
                assert gateway.context.memory.total_bytes < 2 * 256 * 2**10
            assert [each["seq"] for each in await reader.collect("message", sent)] == list(range(1, sent + 1))
        assert gateway.metrics.memory_holders_paused >= 4
        assert gateway.metrics.slow_readers_dropped == 0
        assert (await stuck[0].read_close())[0] == 1013
        for raw in stuck:
            await raw.close()


async def test_a_drain_does_not_wait_for_the_rest_of_a_frame(gateway, handled):
    raw = await gateway.raw("/ws")
    raw.send(HELLO)
    raw.write(array(send("lobby", "first"), *leaves(ITEMS), send("lobby", "last")))
    await eventually(lambda: handled() > 100)
    gateway.server.stop_accepting()
    await gateway.context.publisher.drain()
    await gateway.server.close_connections(0)
    assert handled() < ITEMS
    assert gateway.texts("lobby") == ["first"]
    assert (await raw.read_close())[0] == 1012
    await raw.close()


async def test_a_connection_that_is_lost_leaves_the_rest_of_its_frame_undone(gateway, handled):
    raw = await gateway.raw("/ws")
    raw.send(HELLO)
    raw.write(array(*leaves(ITEMS)))
    await eventually(lambda: handled() > 100)
    raw.reset()
    await eventually(lambda: gateway.metrics.connections_open == 0)
    assert handled() < ITEMS


async def test_a_peer_that_hangs_up_on_unread_frames_is_noticed():
    async with open_gateway(sweep=True) as gateway:
        raw = await gateway.raw("/chat/lobby")
        raw.write(frame(TEXT, b"x") * 200_000)
        await eventually(lambda: gateway.metrics.errors > 200)
        raw.reset()
        await eventually(lambda: gateway.metrics.connections_open == 0)
        assert gateway.metrics.errors < 100_000


async def test_who_breaks_the_protocol_and_does_not_hang_up_is_cut_off(monkeypatch):
    monkeypatch.setattr(sockets, "CLOSE_GRACE_S", 0.1)
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    async with open_gateway(sweep=True) as gateway:
        raw = await gateway.raw("/ws")
        raw.write(frame(TEXT, b"x" * 17_000))
        assert (await raw.read_close())[0] == 1009
        await eventually(lambda: gateway.metrics.connections_open == 0)
        await raw.close()


async def test_polite_senders_are_not_refused_during_an_attack_nor_after_it(gateway):
    hostile = [await gateway.raw("/chat/lobby") for _ in range(10)]
    for raw in hostile:
        raw.write(frame(TEXT, b"x") * 30_000)
    async with gateway.session() as polite:
        for n in range(50):
            await polite.send(send("lobby", ref=n))
            assert (await polite.receive())["op"] == "ack"
        for raw in hostile:
            raw.reset()
        for n in range(50):
            await polite.send(send("lobby", ref=n))
            assert (await polite.receive())["op"] == "ack"
    assert gateway.ingest.refused == 0


async def test_what_follows_a_refused_message_in_a_later_slice_of_its_frame_does_not_overtake_it():
    async with open_gateway(publisher={"limit_bytes": 4_000}, server=LARGE) as gateway, gateway.session() as sender:
        await sender.send([send("lobby", str(n), ref=n) for n in range(1_000)])
        answers = [await sender.receive() for _ in range(1_000)]
        acked = [answer["ref"] for answer in answers if answer["op"] == "ack"]
        assert 0 < len(acked) < 1_000
        assert sorted(acked) == list(range(len(acked)))
    assert gateway.texts("lobby") == [str(n) for n in range(len(acked))]
