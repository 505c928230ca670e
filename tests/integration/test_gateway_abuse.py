"""Clients that flood, stall and vanish: bounded, and unnoticed by everybody else."""

import asyncio
import gc
import random
import tracemalloc
from collections import Counter

import msgspec
import pytest

from chatflow.adapters.websockets import connection as connection_module
from chatflow.adapters.websockets import server as server_module
from chatflow.adapters.websockets import sockets
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.driver import SessionDriver, Subscription
from chatflow.adapters.websockets.feed import FeedSubscriber
from chatflow.domain.messages.rooms import partition_of
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.resend_guard import ResendGuard
from chatflow.domain.session.sends import Sent
from chatflow.domain.session.ws import WsSession
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import CLOSE, PARTITIONS, PING, PONG, TEXT, chat, frame, open_gateway, send

HELLO = {"op": "hello", "userId": 66, "username": "mallory"}
JOIN = {"op": "join", "room": "lobby"}
ROOM_OF_EACH_PARTITION = {partition_of(str(n), PARTITIONS): str(n) for n in range(100)}.values()
LIMIT = 128 * 2**10
SLACK = 512 * 2**10
"""What one turn of the event loop may add above a limit: a read of 256 KiB and the answers to it."""


@pytest.fixture
async def gateway():
    # A flood takes longer than the usual patience with who has not said hello, since pings have their price.
    async with open_gateway(outbound_limit_bytes=LIMIT, hello_timeout_s=110) as opened:
        yield opened


@pytest.fixture
def long_grace(monkeypatch):
    """The test reads the close frame behind all that it did not read before, through the smallest of buffers."""
    for module, name in ((sockets, "CLOSE_GRACE_S"), (connection_module, "END_GRACE_S")):
        monkeypatch.setattr(module, name, 60.0)


def buffered(gateway):
    return [connection.transport.get_write_buffer_size() for connection in gateway.server._open.connections]


def has_overflowed(gateway):
    return any(connection.socket.overflowed for connection in gateway.server._open.connections)


async def flood(gateway, raw, data, *, most=64 * 2**20):
    """Write without reading until the gateway has had enough; the highest mark of its outbound buffer."""
    highest = written = 0
    while not has_overflowed(gateway):
        assert written < most, "the gateway took it all"
        raw.write(data)
        written += len(data)
        while raw.writer.transport.get_write_buffer_size() and not has_overflowed(gateway):
            highest = max([highest, *buffered(gateway)])
            await asyncio.sleep(0)
    return max([highest, *buffered(gateway)])


@pytest.mark.usefixtures("long_grace")
async def test_a_member_that_never_reads_is_dropped_with_1013_and_the_others_miss_nothing(gateway):
    stuck = await gateway.raw("/ws", receive_buffer=4_096)
    stuck.send(HELLO, JOIN)
    async with gateway.session() as quick, gateway.session(user_id=8) as sender:
        await quick.send(JOIN)
        await quick.expect("joined")
        await eventually(lambda: len(gateway.context.hub._rooms["lobby"].live) == 1)
        sent = 0
        while not has_overflowed(gateway):
            await sender.send([send("lobby", "x" * 500) for _ in range(25)])
            sent += 25
            assert sent < 50_000, "a member that does not read was kept"
            await sender.collect("ack", 25)
        await sender.send([send("lobby", "after") for _ in range(10)])
        seqs = [message["seq"] for message in await quick.collect("message", sent + 10)]
        assert seqs == list(range(1, sent + 11))
        assert gateway.metrics.connections_open == 3

        seen = []
        while (got := await stuck.read_frame())[0] != CLOSE:
            for value in values(got[1]):
                seen += [value["seq"]] if value["op"] == "message" else []
        assert got[1][:2] == (1013).to_bytes(2, "big")
        assert seen == list(range(1, len(seen) + 1))
        await stuck.close()
    await eventually(lambda: gateway.metrics.slow_readers_dropped == 1)


def values(payload):
    value = msgspec.json.decode(payload)
    return value if isinstance(value, list) else [value]


@pytest.mark.usefixtures("long_grace")
async def test_a_dropped_reader_comes_back_with_since_and_misses_nothing(gateway):
    stuck = await gateway.raw("/feed/lobby?since=0", receive_buffer=4_096)
    async with gateway.session() as sender:
        while not has_overflowed(gateway):
            await sender.send([send("lobby", "x" * 500) for _ in range(25)])
            await sender.collect("ack", 25)
    last = 0
    while (got := await stuck.read_frame())[0] != CLOSE:
        last = msgspec.json.decode(got[1])["seq"]
    await stuck.close()
    head = len(gateway.texts("lobby"))
    async with gateway.peer(f"/feed/lobby?since={last}") as again:
        assert [(await again.receive())["seq"] for _ in range(head - last)] == list(range(last + 1, head + 1))


async def test_a_stuck_member_that_does_not_even_close_is_cut_off(gateway, monkeypatch):
    monkeypatch.setattr(sockets, "CLOSE_GRACE_S", 0.2)
    stuck = await gateway.raw("/ws", receive_buffer=4_096)
    stuck.send(HELLO, JOIN)
    await eventually(lambda: gateway.context.hub.active_rooms)
    async with gateway.session() as sender:
        while not has_overflowed(gateway):
            await sender.send([send("lobby", "x" * 500) for _ in range(25)])
            await sender.collect("ack", 25)
        await eventually(lambda: gateway.metrics.connections_open == 1)
    await stuck.close()


@pytest.mark.usefixtures("long_grace")
async def test_a_sender_that_never_reads_its_acks_is_bounded_and_dropped(gateway):
    raw = await gateway.raw("/ws", receive_buffer=4_096)
    raw.send(HELLO)
    data = frame(TEXT, msgspec.json.encode([send("lobby", "x", ref="r" * 500) for _ in range(25)]))
    assert await flood(gateway, raw, data) < LIMIT + SLACK
    await gateway.can_chat("lobby")
    assert (await raw.read_close())[0] == 1013
    await raw.close()


@pytest.mark.usefixtures("long_grace")
async def test_a_chat_client_that_never_reads_its_replies_is_bounded_and_dropped(gateway):
    raw = await gateway.raw("/chat/lobby", receive_buffer=4_096)
    data = b"".join(frame(TEXT, msgspec.json.encode(chat(message="-", padding="x" * 1_000))) for _ in range(10))
    assert await flood(gateway, raw, data) < LIMIT + SLACK
    await gateway.can_chat("lobby")
    assert (await raw.read_close())[0] == 1013
    await raw.close()


@pytest.mark.usefixtures("long_grace")
async def test_a_flood_of_pings_whose_pongs_are_never_read_is_bounded_and_dropped(gateway):
    raw = await gateway.raw("/ws", receive_buffer=4_096)
    assert await flood(gateway, raw, frame(PING, b"p" * 125) * 500) < LIMIT + SLACK
    assert (await raw.read_close())[0] == 1013
    await gateway.can_chat()
    await raw.close()


@pytest.mark.parametrize("junk", [b"[1,2,3]", b'{"userId":"%b"}' % (b"x" * 10_000)])
async def test_replies_held_back_behind_an_unconfirmed_message_are_bounded(junk):
    async with open_gateway(outbound_limit_bytes=LIMIT, processing=False) as gateway:
        raw = await gateway.raw("/chat/lobby")
        raw.send(chat())
        await eventually(lambda: gateway.metrics.messages_received == 1)
        frames = 20 * LIMIT // (len(junk) + 160)
        raw.write(frame(TEXT, junk) * frames)
        taken = -1
        while taken != gateway.metrics.messages_received:
            taken = gateway.metrics.messages_received
            for _ in range(200):
                await asyncio.sleep(0)
        assert taken * len(junk) < LIMIT + SLACK
        gateway.start_processor()
        assert b'"status":"success"' in (await raw.read_frame())[1]
        for _ in range(frames):
            assert b'"status":"error"' in (await raw.read_frame())[1]
        await raw.close()


async def test_unasked_pongs_and_empty_fragments_are_taken_in_without_a_trace(gateway):
    raw = await gateway.raw("/ws")
    raw.write(frame(PONG, b"x" * 100) * 5_000)
    raw.write(frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 3_000 + frame(0, b"5"))
    while (got := await raw.read_frame())[0] != TEXT:
        pass
    assert b'"malformed"' in got[1]
    await raw.close()


async def test_a_message_of_endless_fragments_is_ended(monkeypatch):
    monkeypatch.setattr(server_module, "CLOSE_GRACE_S", 0.2)
    async with open_gateway() as gateway:
        raw = await gateway.raw("/ws")
        raw.write(frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 10_000)
        assert (await raw.read_close())[0] == 1009
        await raw.close()


async def test_connections_cut_with_messages_in_flight_disturb_nobody_and_what_was_taken_is_stored():
    async with open_gateway(processing=False) as gateway:
        async with gateway.session() as member:
            await member.send(JOIN)
            await member.expect("joined")
            raws = [await gateway.raw("/ws" if n % 2 else "/chat/lobby") for n in range(20)]
            for n, raw in enumerate(raws):
                if n % 2:
                    raw.send(HELLO, *(send("lobby", f"{n}.{k}", ref=k) for k in range(50)))
                else:
                    raw.send(*(chat(message=f"{n}.{k}") for k in range(50)))
            await eventually(lambda: gateway.metrics.messages_received == 1_000)
            for raw in raws:
                raw.write(frame(TEXT, b"cut in the mid", size=500))
                raw.reset()
            await eventually(lambda: gateway.metrics.connections_open == 1)
            gateway.start_processor()
            shown = [message["text"] for message in await member.collect("message", 1_000)]
        assert shown == gateway.texts("lobby")
        for n in range(20):
            assert [text for text in shown if text.startswith(f"{n}.")] == [f"{n}.{k}" for k in range(50)]


async def test_a_connection_cut_with_stored_acks_and_joins_under_way_leaves_nothing_behind():
    async with open_gateway(processing=False) as gateway:
        raws = [await gateway.raw("/ws") for _ in range(20)]
        for raw in raws:
            raw.send(HELLO, *(send("lobby", ack="stored") for _ in range(20)), *({**JOIN, "since": 0},) * 5)
        await eventually(lambda: gateway.metrics.messages_received == 400)
        assert len(gateway.context.stored_acks) == 400
        for raw in raws:
            raw.reset()
        await eventually(lambda: gateway.metrics.connections_open == 0)
        assert len(gateway.context.stored_acks) == 0
        assert gateway.context.hub.active_rooms == 0


async def test_a_sender_that_the_gateway_itself_holds_back_is_not_dropped_as_silent(monkeypatch):
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    async with (
        open_gateway(sweep=True, heartbeat_s=0.1, inflight_per_connection=8, processing=False) as gateway,
        gateway.session() as sender,
    ):
        await sender.send(*(send("lobby", ref=n) for n in range(300)))
        pings = asyncio.get_running_loop().time() + 0.5
        await eventually(lambda: asyncio.get_running_loop().time() > pings)
        assert gateway.metrics.silent_peers_dropped == 0
        gateway.start_processor()
        assert [ack["ref"] for ack in await sender.collect("ack", 300)] == list(range(300))


def gateway_objects():
    gc.collect()
    kinds = (
        WsSession,
        ChatSession,
        SessionDriver,
        Subscription,
        FeedSubscriber,
        ResendGuard,
        Inflight,
        Sent,
        GatewayConnection,
    )
    return [found for found in gc.get_objects() if type(found) in kinds]


async def test_repeated_abuse_leaves_no_object_behind_and_memory_stays_flat(gateway):
    of_other_tests = {id(found): found for found in gateway_objects()}
    rng = random.Random(3)
    await abuse(gateway, rng)
    tracemalloc.start()
    try:
        grown = []
        for _ in range(3):
            await abuse(gateway, rng)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    for room in ROOM_OF_EACH_PARTITION:
        await gateway.can_chat(room)  # a partition remembers its last batch until the next one
    await eventually(gateway.is_idle)
    left = Counter(type(found).__name__ for found in gateway_objects() if id(found) not in of_other_tests)
    assert set(left) <= {"ChatSession", "SessionDriver", "ResendGuard", "Inflight", "GatewayConnection"}
    assert left.total() <= 4 * PARTITIONS
    assert grown[-1] - grown[0] < 64 * 2**10


async def abuse(gateway, rng):
    """One of everything, several times over; nothing is stored for long."""
    for _ in range(5):
        for path, data in (
            ("/ws", frame(TEXT, b"[" * 16_000)),
            ("/ws", frame(TEXT, b"x" * 17_000)),
            ("/ws", frame(TEXT, msgspec.json.encode([HELLO, *({**JOIN, "room": f"r{n}"} for n in range(50))]))),
            ("/ws", frame(TEXT, msgspec.json.encode([HELLO, *(send("r", ack="stored") for _ in range(50))]))),
            ("/chat/a%20b", b""),
            ("/chat/5", frame(TEXT, msgspec.json.encode(chat())) * 20),
            ("/feed/5?since=0", frame(TEXT, b"x") * 100),
            ("/feed/5?since=x", b""),
            ("/ws", frame(PING, b"x" * 125) * 500),
            ("/ws", rng.randbytes(500)),
        ):
            raw = await gateway.raw(path, receive_buffer=4_096)
            raw.write(data)
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
            raw.reset()
    await eventually(gateway.is_idle)
    for kept in (gateway.store.memory.tables.rooms, gateway.store.memory.tables.by_key, gateway.store.calls):
        kept.clear()
