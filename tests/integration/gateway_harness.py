"""A real gateway on a free port over the memory broker, and the clients that tests put on its wire.

On closing it checks what must hold after any abuse: nothing was logged as an error, and no connection, room,
subscription or pending byte is left behind.
"""

import asyncio
import base64
import contextlib
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import attrs
import msgspec
import pytest
import uuid_utils

from chatflow.adapters.memory.broker import MemoryBroker, MemoryLiveChannel
from chatflow.adapters.tls.certificate import Certificate
from chatflow.adapters.tls.entry import TlsEntrance
from chatflow.adapters.websockets.doorway import Doorway
from chatflow.adapters.websockets.server import GatewayServer
from chatflow.domain.delivery.live_delivery import LiveDelivery
from chatflow.domain.delivery.metrics import DeliveryMetrics
from chatflow.domain.delivery.room_hub import RoomHub
from chatflow.domain.ingest.metrics import IngestMetrics
from chatflow.domain.ingest.publisher import IngestPublisher
from chatflow.domain.ingest.stored_acks import StoredAcks
from chatflow.domain.messages.validation import MessageLimits, Stamps
from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.partition_processor import PartitionProcessor, run_processors
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import WriteBehindBuffer
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.metrics import SessionMetrics
from chatflow.ports.tls import TlsListener
from tests.harness.certificates import Authority
from tests.harness.waiting import eventually
from tests.harness.ws_client import WsClient, client_of
from tests.unit.fakes import FakeStore

DEADLINE_S = 40.0


@attrs.frozen
class Encryption:
    """TLS on the gateway's port, and what its clients trust."""

    listener: TlsListener
    trust: ssl.SSLContext


ENCRYPTION: list[Encryption] = []
"""The last one is that of every gateway and client; none: no TLS."""


@pytest.fixture
def encrypted(authority: Authority) -> Iterator[TlsEntrance]:
    """Gateways and clients of the test speak TLS."""
    files = authority.issue("127.0.0.1")
    entrance = TlsEntrance(Certificate(files.certificate, files.key))
    ENCRYPTION.append(Encryption(entrance, authority.trust()))
    yield entrance
    ENCRYPTION.clear()


PARTITIONS = 4
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def new_id() -> str:
    return str(uuid_utils.uuid7())


def now_us() -> int:
    return time.time_ns() // 1000


class _ErrorLog(logging.Handler):
    """Keeps what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter("%(name)s: %(message)s").format(record))


@attrs.define(eq=False)
class Gateway:
    """Everything of one gateway process, with its processor in the same loop."""

    store: FakeStore
    broker: MemoryBroker
    live: MemoryLiveChannel
    context: GatewayContext
    server: GatewayServer
    port: int = 0
    _processing: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    @property
    def metrics(self) -> SessionMetrics:
        return self.context.metrics

    @property
    def ingest(self) -> IngestMetrics:
        return self.context.publisher.metrics

    def start_processor(self) -> None:
        persister = Persister(self.store, self.live, PersistenceMetrics(), time.monotonic, now_us)
        breaker = CircuitBreaker(time.monotonic, reset_s=0.1)
        processors = [
            PartitionProcessor(
                partition,
                self.broker,
                persister,
                breaker,
                BatchPolicy(),
                PersistenceMetrics(),
                new_buffer=lambda: WriteBehindBuffer(20_000, 2**25),
            )
            for partition in range(PARTITIONS)
        ]
        self._processing = asyncio.create_task(run_processors(processors))

    async def stop_processor(self) -> None:
        """As a kill does: what it took and did not ack goes back to the broker."""
        if self._processing is not None:
            self._processing.cancel()
            await asyncio.gather(self._processing, return_exceptions=True)
            self._processing = None

    def url(self, path: str) -> str:
        return f"{'wss' if ENCRYPTION else 'ws'}://127.0.0.1:{self.port}{path}"

    @contextlib.asynccontextmanager
    async def peer(self, path: str, **options: Any) -> AsyncIterator[WsClient]:
        """A client of any path, closed at the end."""
        if ENCRYPTION:
            options.setdefault("ssl", ENCRYPTION[-1].trust)
        async with client_of(self.url(path), **options) as client:
            yield client

    @contextlib.asynccontextmanager
    async def session(self, *, user_id: int = 7, **options: Any) -> AsyncIterator[WsClient]:
        """A ``/ws`` client that has been welcomed."""
        async with self.peer("/ws", **options) as peer:
            await peer.hello(user_id)
            yield peer

    async def raw(self, path: str | None, *, receive_buffer: int | None = None) -> "RawPeer":
        """A client on a plain socket; ``None`` leaves out the handshake."""
        peer = await RawPeer.open(self.port, receive_buffer)
        if path is not None:
            await peer.handshake(path)
        return peer

    async def can_chat(self, room: str = "alive") -> None:
        """Somebody new connects, sends, and is answered."""
        async with self.peer(f"/chat/{room}") as peer:
            await peer.send(chat())
            assert (await peer.receive())["status"] == "success"

    def texts(self, room: str) -> list[str]:
        return [row.message.text for row in self.store.rooms.get(room, [])]

    def is_idle(self) -> bool:
        return (
            self.metrics.connections_open == 0
            and self.context.hub.active_rooms == 0
            and len(self.context.stored_acks) == 0
            and self.context.publisher.pending_bytes == 0
        )


@contextlib.asynccontextmanager
async def open_gateway(
    *,
    processing: bool = True,
    sweep: bool = False,
    broker: dict[str, Any] | None = None,
    publisher: dict[str, Any] | None = None,
    breaker: dict[str, Any] | None = None,
    hub: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    **context: Any,
) -> AsyncIterator[Gateway]:
    """Start it; each dictionary goes to the constructor of that part, the rest to `GatewayContext`."""
    if ENCRYPTION:
        server = {"tls": ENCRYPTION[-1].listener, **(server or {})}
    log = _ErrorLog()
    logging.getLogger().addHandler(log)
    clock, store = time.monotonic, FakeStore()
    memory = MemoryBroker(partitions=PARTITIONS, **(broker or {}))
    entrance = IngestPublisher(
        memory,
        CircuitBreaker(clock, **(breaker or {})),
        IngestMetrics(),
        clock,
        partitions=PARTITIONS,
        **(publisher or {}),
    )
    shared = GatewayContext(
        entrance,
        RoomHub(store, DeliveryMetrics(), **(hub or {})),
        StoredAcks(store, clock, overdue_s=0.1),
        SessionMetrics(),
        MessageLimits(),
        Stamps("gateway-1", now_us, new_id),
        clock,
        **context,
    )
    gateway = Gateway(
        store,
        memory,
        MemoryLiveChannel(),
        shared,
        GatewayServer(shared, new_id, **({"doorway": Doorway(head_timeout_s=shared.hello_timeout_s)} | (server or {}))),
    )
    gateway.port = await gateway.server.start("127.0.0.1", 0)
    delivery = LiveDelivery(
        gateway.live, (shared.hub, shared.stored_acks), limit=10_000, resync_s=0.1, resync_failed=_fail
    )
    loops = [entrance.run(), delivery.run(), *([gateway.server.sweep()] if sweep else [])]
    tasks = [asyncio.create_task(loop) for loop in loops]
    if processing:
        gateway.start_processor()
    try:
        yield gateway
        if gateway._processing is None:
            gateway.start_processor()
        await eventually(gateway.is_idle, "an idle gateway after the last client has gone")
    finally:
        gateway.server.stop_accepting()
        await gateway.server.close_connections(0)
        await gateway.stop_processor()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        logging.getLogger().removeHandler(log)
    assert log.records == []


def _fail(error: Exception) -> None:
    raise error


def chat(**fields: Any) -> dict[str, Any]:
    """A good ``/chat`` frame; ``None`` leaves a field out."""
    frame = {
        "userId": "123",
        "username": "user123",
        "message": "hi",
        "timestamp": "2026-11-24T01:31:00.123Z",
        "messageType": "TEXT",
    } | fields
    return {name: value for name, value in frame.items() if value is not None}


def send(room: str, text: str = "hi", **fields: Any) -> dict[str, Any]:
    """A ``/ws`` send."""
    return {"op": "send", "room": room, "text": text} | fields


@attrs.define(eq=False)
class RawPeer:
    """A client that does what no library does. It reads only when told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int, receive_buffer: int | None = None) -> "RawPeer":
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        options: dict[str, Any] = {}
        if ENCRYPTION:
            options = {"ssl": ENCRYPTION[-1].trust, "server_hostname": "127.0.0.1"}
        return cls(*await asyncio.open_connection(sock=sock, limit=2**12, **options))

    async def handshake(self, path: str) -> None:
        self.write(upgrade(path))
        head = await self.head()
        assert b" 101 " in head, head

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, *values: Any) -> None:
        self.write(b"".join(frame(TEXT, msgspec.json.encode(value)) for value in values))

    async def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, pings included."""
        async with asyncio.timeout(DEADLINE_S):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def read_close(self) -> tuple[int, str]:
        """Read on to the close frame; its code and reason."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == CLOSE:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    async def read_all(self) -> bytes:
        """Read on to the end of the connection, however it ends."""
        parts: list[bytes] = []
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                while part := await self.reader.read(2**16):
                    parts.append(part)
        return b"".join(parts)

    def reset(self) -> None:
        """Cut the connection with a RST, unread data and all."""
        sock = self.writer.get_extra_info("socket")
        if sock is None:  # it was cut already
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def upgrade(path: str) -> bytes:
    """The request of an opening handshake (RFC 6455, section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, size: int | None = None) -> bytes:
    """A client's frame, masked with the zero key (RFC 6455, section 5.2); ``size`` may lie."""
    size = len(payload) if size is None else size
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


async def close_all(peers: Iterable[RawPeer]) -> None:
    await asyncio.gather(*(peer.close() for peer in peers))
