"""What every `Socket` promises. An adapter joins with a harness and a name in `HARNESSES`."""

import asyncio
import socket as tcp
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import attrs
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from chatflow.adapters.memory.socket import MemorySocket
from chatflow.adapters.websockets.arriving import ArrivingConnection
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.public_connection import PublicPeer
from chatflow.adapters.websockets.sockets import CLOSE_GRACE_S
from chatflow.ports.socket import Socket
from tests.harness.waiting import eventually
from tests.unit.fakes import cancel

WAIT_S = 10.0
LIMIT_BYTES = 256 * 1024
FRAME = b'"' + b"x" * 4_094 + b'"'
MORE_THAN_ANY_KERNEL_BUFFERS = 5_000


class Harness(Protocol):
    """One connection, and its peer, who reads only when told to."""

    socket: Socket

    async def read(self, count: int) -> list[bytes]:
        """The next so many frames, as the peer gets them."""

    async def read_to_the_end(self) -> tuple[list[bytes], int]:
        """All frames up to the close, and its code."""

    async def keep_reading(self) -> None:
        """Read whatever comes until cancelled; `read` gets it."""

    async def vanish(self) -> None:
        """The peer is gone without a closing handshake."""

    async def aclose(self) -> None:
        """End everything."""


@attrs.define(eq=False)
class MemoryHarness:
    """The socket is its own peer."""

    socket: MemorySocket = attrs.field(factory=lambda: MemorySocket(LIMIT_BYTES))
    unread: list[bytes] = attrs.field(factory=list)

    async def read(self, count: int) -> list[bytes]:
        self.unread += self.socket.read()
        frames, self.unread = self.unread[:count], self.unread[count:]
        assert len(frames) == count
        return frames

    async def read_to_the_end(self) -> tuple[list[bytes], int]:
        assert self.socket.closed_with is not None
        frames, self.unread = self.unread + self.socket.read(), []
        return frames, self.socket.closed_with[0]

    async def keep_reading(self) -> None:
        while True:
            self.unread += self.socket.read()
            await asyncio.sleep(0)

    async def vanish(self) -> None:
        self.socket.close(1006, "gone")

    async def aclose(self) -> None:
        self.socket.close(1001, "the end")


@attrs.define(eq=False)
class Peer:
    """A client's protocol on a stream with small buffers, which moves only when it is fed."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: ClientProtocol
    unread: list[bytes] = attrs.field(factory=list)

    @classmethod
    async def connect(cls, port: int) -> "Peer":
        sock = tcp.socket()
        sock.setsockopt(tcp.SOL_SOCKET, tcp.SO_RCVBUF, 8_192)
        sock.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4_096)
        peer = cls(reader, writer, ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/")))
        peer.protocol.send_request(peer.protocol.connect())
        peer.write()
        while peer.protocol.state is State.CONNECTING:
            await peer.feed()
        return peer

    async def feed(self) -> bool:
        """Take what has arrived, answering pings; false at the end of the stream."""
        try:
            data = await self.reader.read(65_536)
        except ConnectionResetError:
            return False
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.unread.append(bytes(event.data))
        self.write()
        return bool(data)

    def write(self) -> None:
        self.writer.writelines(data for data in self.protocol.data_to_send() if data)


@attrs.define(eq=False)
class WebSocketHarness:
    """A real connection over the loopback."""

    server: Server
    connection: GatewayConnection | PublicPeer
    peer: Peer

    @property
    def socket(self) -> Socket:
        return self.connection.socket

    @classmethod
    async def open(cls) -> "WebSocketHarness":
        connected: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

        async def handle(connection: ServerConnection) -> None:
            connected.set_result(connection)
            await connection.wait_closed()

        server = await serve(
            handle, "127.0.0.1", 0, create_connection=GatewayConnection, compression=None, ping_interval=None
        )
        async with asyncio.timeout(WAIT_S):
            peer = await Peer.connect(server.sockets[0].getsockname()[1])
            connection = await connected
        assert isinstance(connection, GatewayConnection)
        connection.socket.limit_bytes = LIMIT_BYTES
        return cls(server, connection, peer)

    async def read(self, count: int) -> list[bytes]:
        peer = self.peer
        async with asyncio.timeout(WAIT_S):
            while len(peer.unread) < count:
                assert await peer.feed(), "the connection ended too early"
        frames, peer.unread = peer.unread[:count], peer.unread[count:]
        return frames

    async def read_to_the_end(self) -> tuple[list[bytes], int]:
        peer = self.peer
        async with asyncio.timeout(WAIT_S):
            while peer.protocol.close_rcvd is None:
                assert await peer.feed(), "the connection ended without a close frame"
        return peer.unread, peer.protocol.close_rcvd.code

    async def keep_reading(self) -> None:
        while await self.peer.feed():
            pass

    async def vanish(self) -> None:
        self.peer.writer.transport.abort()

    async def aclose(self) -> None:
        self.peer.writer.transport.abort()
        self.server.close()
        async with asyncio.timeout(WAIT_S):
            await self.server.wait_closed()


@attrs.define(eq=False)
class PublicHarness(WebSocketHarness):
    """The same over documented parts of the library alone."""

    @classmethod
    async def open(cls) -> "PublicHarness":
        connected: asyncio.Future[PublicPeer] = asyncio.get_running_loop().create_future()

        async def handle(connection: ServerConnection) -> None:
            assert isinstance(connection, ArrivingConnection)
            wrapped = PublicPeer(connection)
            connected.set_result(wrapped)
            await connection.wait_closed()
            await wrapped.aclose()

        server = await serve(
            handle,
            "127.0.0.1",
            0,
            create_connection=ArrivingConnection,
            compression=None,
            ping_interval=None,
            close_timeout=CLOSE_GRACE_S,
        )
        async with asyncio.timeout(WAIT_S):
            peer = await Peer.connect(server.sockets[0].getsockname()[1])
            connection = await connected
        connection.socket.limit_bytes = LIMIT_BYTES
        return cls(server, connection, peer)


async def memory() -> Harness:
    return MemoryHarness()


HARNESSES: dict[str, Callable[[], Awaitable[Harness]]] = {
    "memory": memory,
    "websockets": WebSocketHarness.open,
    "websockets, public parts": PublicHarness.open,
}


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness = await HARNESSES[request.param]()
    yield harness
    await harness.aclose()


def frame(n: int) -> bytes:
    return b'{"n":%d}' % n


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def fill(socket: Socket) -> tuple[asyncio.Task[bool], int]:
    """Send until the buffer is not low any more; who waits for it, and how many frames that took."""
    for sent in range(1, MORE_THAN_ANY_KERNEL_BUFFERS):
        socket.send([FRAME])
        waiting = asyncio.create_task(socket.drained())
        await turn()
        if not waiting.done():
            assert socket.is_open()
            return waiting, sent
    raise AssertionError("the buffer never filled")


async def test_frames_arrive_in_the_order_of_the_calls(harness: Harness) -> None:
    for n in range(0, 100, 2):
        harness.socket.send([frame(n), frame(n + 1)])
    assert await harness.read(100) == [frame(n) for n in range(100)]
    assert harness.socket.is_open()


async def test_frames_are_text_and_unchanged(harness: Harness) -> None:
    frames = ['{"text":"héllo 😀"}'.encode(), b"[]", b'"' + b"x" * 100_000 + b'"']
    harness.socket.send(frames)
    assert await harness.read(3) == frames


async def test_sending_nothing_sends_nothing(harness: Harness) -> None:
    harness.socket.send([])
    harness.socket.send([frame(1)])
    assert await harness.read(1) == [frame(1)]


async def test_a_close_comes_behind_what_was_sent_and_says_why(harness: Harness) -> None:
    harness.socket.send([frame(1), frame(2)])
    harness.socket.close(1012, "restarting")
    assert not harness.socket.is_open()
    assert await harness.read_to_the_end() == ([frame(1), frame(2)], 1012)


async def test_only_the_first_close_counts(harness: Harness) -> None:
    harness.socket.close(4401, "no valid hello in time")
    harness.socket.close(1013, "too slow a reader")
    harness.socket.close(4401, "no valid hello in time")
    assert await harness.read_to_the_end() == ([], 4401)


async def test_after_a_close_sending_does_nothing(harness: Harness) -> None:
    harness.socket.close(1008, "policy")
    harness.socket.send([frame(1)])
    assert await harness.read_to_the_end() == ([], 1008)


async def test_a_slow_reader_is_closed_with_1013_without_holding_up_the_sender(harness: Harness) -> None:
    sent = 0
    while harness.socket.is_open():
        harness.socket.send([b'"%06d' % sent + FRAME[7:]])  # no await in this loop: sending never waits
        sent += 1
        assert sent < MORE_THAN_ANY_KERNEL_BUFFERS
    assert sent * len(FRAME) > LIMIT_BYTES
    frames, code = await harness.read_to_the_end()
    assert code == 1013
    assert [int(each[1:7]) for each in frames] == list(range(len(frames)))
    assert len(frames) == sent  # nothing is skipped before the close


async def test_a_reader_that_keeps_up_is_never_closed(harness: Harness) -> None:
    batch = LIMIT_BYTES // len(FRAME) // 2
    for _ in range(10):
        harness.socket.send([FRAME] * batch)
        await harness.read(batch)
    assert harness.socket.is_open()


async def test_an_empty_buffer_is_drained_at_once(harness: Harness) -> None:
    async with asyncio.timeout(WAIT_S):
        assert await harness.socket.drained()


async def test_a_full_buffer_is_drained_once_the_peer_has_read(harness: Harness) -> None:
    waiting, sent = await fill(harness.socket)
    await harness.read(sent)
    async with asyncio.timeout(WAIT_S):
        assert await waiting
    assert harness.socket.is_open()


async def test_who_waits_for_the_buffer_hears_of_a_close_instead(harness: Harness) -> None:
    waiting, _ = await fill(harness.socket)
    harness.socket.close(1012, "restarting")
    async with asyncio.timeout(CLOSE_GRACE_S / 2):  # it is told, not only cut off in the end
        assert not await waiting
        assert not await harness.socket.drained()


async def test_who_waits_for_the_buffer_hears_that_the_peer_is_gone(harness: Harness) -> None:
    waiting, _ = await fill(harness.socket)
    await harness.vanish()
    async with asyncio.timeout(WAIT_S):
        assert not await waiting
    assert not harness.socket.is_open()


async def test_an_echo_comes_back_once_the_peer_has_read_what_was_sent_before(harness: Harness) -> None:
    harness.socket.send([FRAME] * 20)
    echoed = asyncio.create_task(harness.socket.echoed())
    await turn()
    assert not echoed.done()
    reading = asyncio.create_task(harness.keep_reading())
    async with asyncio.timeout(WAIT_S):
        assert await echoed
    await cancel(reading)
    assert await harness.read(20) == [FRAME] * 20


async def test_an_echo_does_not_wait_for_what_was_sent_after_it() -> None:
    socket = MemorySocket()
    socket.send([frame(1)])
    echoed = asyncio.create_task(socket.echoed())
    await turn()
    socket.read()
    socket.send([frame(2)])
    async with asyncio.timeout(WAIT_S):
        assert await echoed


async def test_who_waits_for_an_echo_hears_of_a_close_instead(harness: Harness) -> None:
    harness.socket.send([frame(1)])
    echoed = asyncio.create_task(harness.socket.echoed())
    await turn()
    harness.socket.close(1012, "restarting")
    await harness.read_to_the_end()
    async with asyncio.timeout(WAIT_S):
        assert not await echoed
        assert not await harness.socket.echoed()


async def test_who_waits_for_an_echo_hears_that_the_peer_is_gone(harness: Harness) -> None:
    harness.socket.send([frame(1)])
    echoed = asyncio.create_task(harness.socket.echoed())
    await turn()
    await harness.vanish()
    async with asyncio.timeout(WAIT_S):
        assert not await echoed
    await eventually(lambda: not harness.socket.is_open())


async def test_a_peer_that_is_gone_can_be_sent_to_and_closed(harness: Harness) -> None:
    await harness.vanish()
    await eventually(lambda: not harness.socket.is_open())
    harness.socket.send([frame(1)])
    harness.socket.close(1012, "restarting")
    async with asyncio.timeout(WAIT_S):
        assert not await harness.socket.drained()


async def test_waiting_for_the_buffer_or_an_echo_can_be_cancelled(harness: Harness) -> None:
    waiting, sent = await fill(harness.socket)
    echoed = asyncio.create_task(harness.socket.echoed())
    await turn()
    await cancel(waiting, echoed)
    assert waiting.cancelled()
    assert echoed.cancelled()
    assert harness.socket.is_open()
    await harness.read(sent)
    harness.socket.send([frame(1)])
    assert await harness.read(1) == [frame(1)]


async def test_who_is_cancelled_while_the_connection_ends_is_cancelled(harness: Harness) -> None:
    harness.socket.send([frame(1)])
    echoed = asyncio.create_task(harness.socket.echoed())
    await turn()
    harness.socket.close(1012, "restarting")
    echoed.cancel()
    await asyncio.wait([echoed])
    assert echoed.cancelled()


async def test_a_silent_peer_is_pinged_and_then_dropped() -> None:
    harness = await WebSocketHarness.open()
    try:
        connection, socket = harness.connection, harness.connection.socket
        connection.heard_at = started = connection.heard_at - 1.0  # the loop's clock is coarse
        assert socket.heartbeat(started + 24, 25)
        assert socket.heartbeat(started + 26, 25)
        assert connection.pinged_at == started + 26
        await harness.peer.feed()  # the peer gets the ping and answers it
        await eventually(lambda: connection.heard_at > started)
        heard_at = connection.heard_at
        assert socket.heartbeat(heard_at + 49, 25)
        assert not socket.heartbeat(heard_at + 50, 25)
        await eventually(lambda: not socket.is_open())
        assert socket.heartbeat(heard_at + 99, 25)
    finally:
        await harness.aclose()


async def test_a_silent_peer_is_pinged_and_then_dropped_on_public_parts_too() -> None:
    harness = await PublicHarness.open()
    try:
        socket = harness.connection.socket
        socket.is_listening = True
        started = socket.heard_at = socket.heard_at - 1.0  # the loop's clock is coarse
        assert socket.heartbeat(started + 24, 25)
        assert socket.heartbeat(started + 26, 25)
        await harness.peer.feed()  # the peer gets the ping and answers it
        await eventually(lambda: socket.heard_at > started)
        heard_at = socket.heard_at
        assert socket.heartbeat(heard_at + 49, 25)
        assert not socket.heartbeat(heard_at + 50, 25)
        await eventually(lambda: not socket.is_open())
        assert socket.heartbeat(heard_at + 99, 25)
    finally:
        await harness.aclose()
