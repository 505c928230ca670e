"""Who gets in: paths, limits on connections, and handshakes that never end."""

import asyncio
import contextlib
import random

import pytest
from websockets.exceptions import InvalidStatus

from tests.harness.waiting import eventually
from tests.integration.gateway_harness import TEXT, RawPeer, close_all, open_gateway, upgrade

HELLO = {"op": "hello", "userId": 7, "username": "ada"}


@pytest.fixture
async def gateway():
    async with open_gateway() as opened:
        yield opened


async def request(gateway, data):
    raw = await gateway.raw(None)
    raw.write(data)
    answer = await raw.read_all()
    await raw.close()
    return answer


@pytest.mark.parametrize(
    "path", ["/", "/chat", "/feed", "/ws/", "/ws2", "/WS", "/chats/5", "//ws", "//[x", "/../ws", "*", "http://[::1/ws"]
)
async def test_an_unknown_path_is_answered_with_404(gateway, path):
    answer = await request(gateway, upgrade(path))
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("path", ["/ws?token=s3cret", "/feed/5?since=1&Access_Token=s3cret", "/chat/5?%74oken=s3cret"])
async def test_a_url_with_a_token_is_refused_and_not_echoed(gateway, path):
    answer = await request(gateway, upgrade(path))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"s3cret" not in answer


async def test_a_query_does_not_change_the_path(gateway):
    async with gateway.peer("/ws?x=/chat/5") as peer:
        assert (await peer.hello())["op"] == "welcome"


async def test_a_plain_http_request_is_told_what_the_port_is_for(gateway):
    other = await request(gateway, b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert other.startswith(b"HTTP/1.1 404 ")
    assert b"WebSocket at /ws" in other
    assert (await request(gateway, b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize(
    "data",
    [
        b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /ws HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + b"A: b\r\n" * 2_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_websocket_handshake_ends_the_connection_and_nothing_else(gateway, data):
    answer = await request(gateway, data)
    assert b" 101 " not in answer
    await gateway.can_chat()


@pytest.mark.parametrize(("headers", "status"), [([8_000], b"101"), ([1_000] * 40, b"431")], ids=["cookies", "endless"])
async def test_a_request_head_may_be_long_but_not_a_megabyte(gateway, headers, status):
    lines = [b"X-%d: %b\r\n" % (at, b"y" * size) for at, size in enumerate(headers)]
    peer = await gateway.raw(None)
    peer.write(upgrade("/ws").removesuffix(b"\r\n") + b"".join(lines) + b"\r\n")
    assert (await peer.head()).startswith(b"HTTP/1.1 %b " % status)
    await peer.close()
    await gateway.can_chat()


async def test_random_bytes_instead_of_a_handshake_end_the_connection_and_nothing_else():
    rng = random.Random(2)
    async with open_gateway(hello_timeout_s=0.3) as gateway:
        answers = await asyncio.gather(
            *(request(gateway, rng.randbytes(rng.randrange(3_000)) + b"\r\n\r\n") for _ in range(100))
        )
        assert not [answer for answer in answers if b" 101 " in answer]
        await gateway.can_chat()


async def test_beyond_the_limit_a_connection_is_sent_away_with_retry_after():
    async with (
        open_gateway(server={"connections_max": 2}) as gateway,
        gateway.session() as one,
        gateway.peer("/chat/5"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with gateway.peer("/ws"):
                pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        await one.connection.close()
        await eventually(lambda: gateway.metrics.connections_open == 1)
        await gateway.can_chat()


async def test_a_thousand_clients_that_come_at_once_are_all_welcomed():
    async with open_gateway(hello_timeout_s=60) as gateway:

        async def enter():
            raw = await gateway.raw("/ws")
            raw.send(HELLO)
            return raw, await raw.read_frame()

        entered = await asyncio.gather(*(enter() for _ in range(1_000)))
        assert all(opcode == TEXT and b'"op":"welcome"' in payload for _, (opcode, payload) in entered)
        assert gateway.metrics.connections_open == 1_000
        await close_all(raw for raw, _ in entered)


async def test_handshakes_that_never_end_hold_nobody_up_and_are_ended():
    async with open_gateway(hello_timeout_s=0.5) as gateway:
        silent = [await gateway.raw(None) for _ in range(200)]
        slow = [await gateway.raw(None) for _ in range(50)]
        trickles = [asyncio.create_task(trickle(raw)) for raw in slow]
        await gateway.can_chat()
        async with gateway.session():
            pass
        assert [await raw.read_all() for raw in silent] == [b""] * 200
        await asyncio.gather(*trickles)
        await close_all(silent + slow)


async def trickle(raw: RawPeer) -> None:
    """A byte at a time until the other end has had enough."""
    with contextlib.suppress(ConnectionError):
        for byte in upgrade("/ws")[:-1] * 100:
            await asyncio.sleep(0.01)
            if raw.reader.at_eof() or raw.writer.is_closing():
                return
            raw.write(bytes([byte]))
        pytest.fail("a handshake that never ends was never ended")
