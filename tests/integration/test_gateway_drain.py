"""Shutting a gateway down: nobody new, every ack that is owed, then 1012."""

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from chatflow.adapters.websockets import server as server_module
from chatflow.adapters.websockets import sockets
from chatflow.entrypoints.roles import gateway as role_module
from chatflow.entrypoints.roles.gateway import GatewayRole
from tests.harness.waiting import eventually
from tests.integration.gateway_harness import chat, open_gateway, send


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(role_module, "CLOSE_SPREAD_S", 0.05)
    monkeypatch.setattr(sockets, "CLOSE_GRACE_S", 0.2)
    monkeypatch.setattr(server_module, "CLOSE_GRACE_S", 0.2)


def role_of(gateway):
    return GatewayRole(None, None, gateway.context, gateway.server, gateway.broker, gateway.live, None, None)


async def everything(peer):
    """All objects up to the close, and its code."""
    found = []
    try:
        while True:
            found.append(await peer.receive())
    except ConnectionClosed:
        return found, peer.connection.close_code


async def test_every_ack_of_what_was_taken_arrives_before_the_close_and_is_stored():
    async with open_gateway(processing=False) as gateway:
        async with gateway.session() as peer, gateway.session(user_id=8) as stored, gateway.peer("/chat/c") as other:
            await peer.send([send("a", str(n), ref=n) for n in range(100)])
            await stored.send([send("b", str(n), ref=n, ack="stored") for n in range(100)])
            await other.send(*(chat(message=str(n)) for n in range(100)))
            await eventually(lambda: gateway.metrics.messages_received == 300)
            draining = asyncio.create_task(role_of(gateway).drain())
            await eventually(lambda: gateway.server.is_draining)
            gateway.start_processor()
            acks, code = await everything(peer)
            assert code == 1012
            assert [ack["ref"] for ack in acks if ack["op"] == "ack"] == list(range(100))
            stored_acks, code = await everything(stored)
            assert code == 1012
            assert [ack["seq"] for ack in stored_acks] == list(range(1, 101))
            replies, code = await everything(other)
            assert code == 1012
            assert [reply["status"] for reply in replies] == ["success"] * 100
            await draining
        for room in "abc":
            assert gateway.texts(room) == [str(n) for n in range(100)]


async def test_what_comes_after_the_drain_began_is_refused_as_retryable_or_not_answered_at_all():
    async with open_gateway(processing=False) as gateway, gateway.session() as peer:
        await peer.send(send("a", "taken", ref=1))
        await eventually(lambda: gateway.metrics.messages_received == 1)
        draining = asyncio.create_task(role_of(gateway).drain())
        await eventually(lambda: gateway.server.is_draining)
        await peer.send(send("a", "late", ref=2))
        refused = await peer.expect("error")
        assert (refused["ref"], refused["code"], refused["retryable"]) == (2, "unavailable", True)
        gateway.start_processor()
        answers, code = await everything(peer)
        assert code == 1012
        assert [answer["ref"] for answer in answers] == [1]
        await draining
        assert gateway.texts("a") == ["taken"]


async def test_everything_acked_while_clients_keep_sending_into_the_drain_is_stored():
    async with open_gateway() as gateway:

        async def keep_sending(peer, room):
            sent = 0
            while True:
                await peer.send([send(room, str(n), ref=n) for n in range(sent, sent + 10)])
                sent += 10
                await asyncio.sleep(0)

        async with gateway.session() as one, gateway.session(user_id=8) as two:
            peers = {"a": one, "b": two}
            sending = [asyncio.create_task(keep_sending(peer, room)) for room, peer in peers.items()]
            await eventually(lambda: gateway.ingest.messages_published > 500)
            draining = asyncio.create_task(role_of(gateway).drain())
            ended = {room: await everything(peer) for room, peer in peers.items()}
            await asyncio.gather(*sending, return_exceptions=True)
            await draining
        for room, (answers, code) in ended.items():
            assert code == 1012
            acked = [str(answer["ref"]) for answer in answers if answer["op"] == "ack"]
            assert acked == gateway.texts(room)
            assert all(answer["retryable"] for answer in answers if answer["op"] == "error")


async def test_nobody_new_gets_in_while_the_others_are_still_served():
    async with open_gateway() as gateway, gateway.session() as peer:
        gateway.server.stop_accepting()
        await asyncio.sleep(0)
        with pytest.raises((OSError, ConnectionClosed)):
            async with gateway.peer("/ws"):
                pass
        await peer.send(send("a", ref=1))
        assert (await peer.expect("ack"))["ref"] == 1
        await peer.connection.close()


async def test_a_handshake_that_began_before_the_drain_is_not_completed_after_it():
    async with open_gateway(hello_timeout_s=0.2) as gateway:
        half = await gateway.raw(None)
        half.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n")
        await gateway.can_chat()
        gateway.server.stop_accepting()
        await asyncio.sleep(0)
        half.write(
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        assert (await half.read_all()).startswith(b"HTTP/1.1 503 ")
        await half.close()


async def test_peers_that_do_not_answer_the_close_do_not_hold_the_drain_up():
    async with open_gateway(hello_timeout_s=0.2) as gateway:
        deaf = [await gateway.raw("/feed/a") for _ in range(5)]
        half = await gateway.raw(None)
        half.write(b"GET /ws HTTP")
        await eventually(lambda: gateway.metrics.connections_open == 5)
        await role_of(gateway).drain()
        assert gateway.metrics.connections_open == 0
        for raw in deaf:
            assert (await raw.read_close())[0] == 1012
            await raw.close()
        await half.close()


async def test_the_closes_are_spread_over_time():
    async with open_gateway() as gateway:
        raws = [await gateway.raw("/feed/a") for _ in range(10)]
        await eventually(lambda: gateway.metrics.connections_open == 10)
        closing = asyncio.create_task(gateway.server.close_connections(0.5))
        reading = [asyncio.create_task(raw.read_close()) for raw in raws]
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert sum(connection.socket.is_open() for connection in gateway.server._open.connections) >= 5
        gateway.server.stop_accepting()
        assert {code for code, _ in await asyncio.gather(*reading)} == {1012}
        for raw in raws:
            await raw.close()
        await closing
