"""The fault proxy does to a connection what the fault tests rely on, in front of a server that echoes."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable

import aio_pika
import pytest

from tests.harness import FaultProxy
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

PATIENCE_S = 10.0
# One worker, one set of servers.


class Echo:
    """Says back what it hears; counts the bytes, and can stop reading."""

    def __init__(self) -> None:
        self.heard = 0
        self.ends: list[str] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.reading.wait() and (data := await reader.read(65_536)):
                self.heard += len(data)
                writer.write(data)
                await writer.drain()
            self.ends.append("fin")
        except ConnectionError:
            self.ends.append("rst")
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    server = Echo()
    listener = await asyncio.start_server(server, "127.0.0.1", port := free_port())
    server.url = f"tcp://127.0.0.1:{port}"
    yield server
    server.reading.set()
    listener.close()
    await listener.wait_closed()


@pytest.fixture
def proxy(echo: Echo, fault_proxy: Callable[[str], FaultProxy]) -> FaultProxy:
    return fault_proxy(echo.url)


@contextlib.asynccontextmanager
async def client_of(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), PATIENCE_S)


async def is_silent(reader: asyncio.StreamReader, seconds: float = 0.2) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return True
    return False


async def test_the_proxy_passes_everything_and_the_end_of_the_stream(echo: Echo, proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 8_192
    async with client_of(proxy) as (reader, writer):
        assert await said(reader, writer, data) == data
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    await eventually(lambda: not proxy.connections, "the connection is kept")
    assert echo.ends == ["fin"]
    assert (proxy.accepted, proxy.bytes_up, proxy.bytes_down) == (1, len(data), len(data))


async def test_the_proxy_stands_in_a_url_for_its_target(proxy: FaultProxy) -> None:
    assert proxy.url("amqp://u:p@h:1/v?heartbeat=5") == f"amqp://u:p@127.0.0.1:{proxy.port}/v?heartbeat=5"


async def test_a_cut_resets_both_sides_and_welcomes_new_connections(echo: Echo, proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), PATIENCE_S)
    await eventually(lambda: echo.ends, "the server hears of the cut")
    assert echo.ends == ["rst"]
    async with client_of(proxy) as (reader, writer):
        assert await said(reader, writer, b"again") == b"again"


async def test_a_cut_by_fin_ends_both_streams_in_order(echo: Echo, proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.cut("fin")
        assert await asyncio.wait_for(reader.read(1), PATIENCE_S) == b""
    await eventually(lambda: echo.ends, "the server hears of the cut")
    assert echo.ends == ["fin"]


async def test_a_refusing_proxy_keeps_the_present_connections(proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(reader, writer, b"still") == b"still"
        proxy.heal()
        async with client_of(proxy) as (second_reader, second_writer):
            assert await said(second_reader, second_writer, b"new") == b"new"


async def test_delay_counts_once_per_direction_and_does_not_limit_the_rate(proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        for direction, least in (("up", 0.1), ("both", 0.2)):
            proxy.delay(0.1, direction)
            began = time.monotonic()
            writer.write(b"a")
            await asyncio.sleep(0.05)  # the second must not wait for the first one's delay to be over
            await said(reader, writer, b"b")
            took = time.monotonic() - began
            assert least <= took, direction
            assert await asyncio.wait_for(reader.readexactly(1), PATIENCE_S) == b"b"
            proxy.heal()


async def test_heal_releases_what_a_long_delay_holds(proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.delay(3_600)
        writer.write(b"held")
        assert await is_silent(reader)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(4), PATIENCE_S) == b"held"


async def test_throttle_paces_one_direction(proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.throttle(100_000, "down")
        began = time.monotonic()
        await said(reader, writer, bytes(50_000))
        assert time.monotonic() - began > 0.4


async def test_a_stalled_link_slows_the_sender_down_and_loses_nothing(
    echo: Echo, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    proxy = fault_proxy(echo.url)
    data = bytes(range(256)) * 131_072
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.stall()
        writer.write(data)
        assert await is_silent(reader)
        assert echo.heard <= 1 + 65_536
        assert writer.transport.get_write_buffer_size() > len(data) // 2, "something swallowed it"
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(len(data)), PATIENCE_S) == data


async def test_the_proxy_holds_no_more_than_its_limit_for_a_slow_server(echo: Echo, proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.delay(3_600, "up")
        writer.write(bytes(64 * 2**20))
        assert await is_silent(reader)
        (held,) = [link.up._held_bytes for link in proxy._served.values() if link]
        assert proxy.limit_bytes <= held <= proxy.limit_bytes + 65_536
        proxy.cut()


async def test_a_half_open_link_is_silent_and_reset_by_heal(echo: Echo, proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer), client_of(proxy) as (idle_reader, idle_writer):
        await said(reader, writer, b"x")
        await said(idle_reader, idle_writer, b"x")
        heard = echo.heard
        proxy.half_open()
        async with client_of(proxy) as (new_reader, new_writer):
            for each in (writer, new_writer):
                each.write(b"into the void")
            assert await is_silent(reader)
            assert await is_silent(new_reader)
            assert (echo.heard, echo.ends) == (heard, [])
            proxy.heal()
            for each in (reader, new_reader):
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(each.read(1), PATIENCE_S)
        assert await said(idle_reader, idle_writer, b"nothing was lost here") == b"nothing was lost here"


async def test_a_half_open_link_hides_the_end_of_a_client(echo: Echo, proxy: FaultProxy) -> None:
    async with client_of(proxy) as (reader, writer):
        await said(reader, writer, b"x")
        proxy.half_open("up")
    assert not await eventually_any(echo.ends)
    proxy.heal()
    await eventually(lambda: echo.ends, "the server hears of the end after all")
    assert echo.ends == ["rst"]


async def eventually_any(found: list[str], seconds: float = 0.2) -> bool:
    deadline = time.monotonic() + seconds
    while not found and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return bool(found)


async def test_a_server_that_is_down_is_a_reset_behind_the_proxy(fault_proxy: Callable[[str], FaultProxy]) -> None:
    proxy = fault_proxy(f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectionResetError):  # which may come before the connection is handed over
        async with client_of(proxy) as (reader, _):
            await asyncio.wait_for(reader.read(1), PATIENCE_S)


async def test_the_proxy_works_while_the_loop_of_the_test_is_busy(
    redis_url: str, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    proxy = fault_proxy(redis_url)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as connection:  # blocks the loop
        connection.sendall(b"PING\r\n")
        assert connection.recv(7) == b"+PONG\r\n"


async def test_amqp_through_the_proxy_hears_a_cut_and_connects_again(
    vhost_url: str, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    proxy = fault_proxy(vhost_url)
    connection = await aio_pika.connect(proxy.url(vhost_url))
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    proxy.cut()
    await asyncio.wait_for(closed.wait(), PATIENCE_S)
    async with await aio_pika.connect(proxy.url(vhost_url)) as again:
        assert await again.channel()
