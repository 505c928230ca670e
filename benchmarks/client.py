"""A load client that costs little: raw WebSocket frames, masked with the zero key, replies counted by substring.

It measures what a server does, not what a client library costs. One connection keeps a window of unacknowledged
messages; a paced one sends on a schedule and times each ack from the intended send (open loop).
"""

import asyncio
import base64
import os
import re
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import attrs

ZERO_MASK = b"\x00\x00\x00\x00"
TEXT_FRAME = 0x81
_REFS = re.compile(rb'"op":"ack","ref":(\d+)')


def masked_frame(payload: bytes) -> bytes:
    """A client's text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", TEXT_FRAME, 0x80 | size) + ZERO_MASK + payload
    return struct.pack("!BBH", TEXT_FRAME, 0x80 | 126, size) + ZERO_MASK + payload


@attrs.define(eq=False)
class LoadConnection(asyncio.Protocol):
    """One connection; ``on_data`` gets whatever the server sends after the handshake."""

    path: str
    on_data: Callable[[bytes], None] | None = None
    transport: asyncio.Transport = attrs.field(init=False)
    opened: asyncio.Future[None] = attrs.field(init=False)
    lost: bool = attrs.field(default=False, init=False)
    _handshake: bytes = attrs.field(default=b"", init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            if self.on_data is not None:
                self.on_data(data)
            return
        self._handshake += data
        head, found, rest = self._handshake.partition(b"\r\n\r\n")
        if found:
            if b" 101 " not in head:
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            self.opened.set_result(None)
            if rest and self.on_data is not None:
                self.on_data(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed during the handshake"))

    def send(self, *payloads: bytes) -> None:
        self.transport.write(b"".join(map(masked_frame, payloads)))


async def connect(port: int, connection: LoadConnection) -> LoadConnection:
    """``connection``, once the handshake is over."""
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: connection, "127.0.0.1", port)
    await connection.opened
    return connection


@attrs.define(eq=False)
class Occurrences:
    """How often ``marker`` comes in a stream that arrives in pieces."""

    marker: bytes
    _tail: bytes = attrs.field(default=b"", init=False)

    def count(self, data: bytes) -> int:
        """Those that end in this piece; one may begin in the piece before."""
        seen = self._tail + data
        self._tail = seen[-(len(self.marker) - 1) :]
        return seen.count(self.marker)


@attrs.define(eq=False)
class WindowedSender:
    """Keeps ``window`` messages unacknowledged until told to stop; ``marker`` is what each ack contains once."""

    frames: list[bytes]
    marker: bytes
    window: int
    connection: LoadConnection = attrs.field(init=False)
    sent: int = attrs.field(default=0, init=False)
    acked: int = attrs.field(default=0, init=False)
    errors: int = attrs.field(default=0, init=False)
    stopping: bool = attrs.field(default=False, init=False)
    _acks: Occurrences = attrs.field(init=False)
    _refusals: tuple[Occurrences, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._acks = Occurrences(self.marker)
        self._refusals = Occurrences(b'"op":"error"'), Occurrences(b'"status":"error"')

    async def open(self, port: int, path: str, hello: bytes | None) -> None:
        self.connection = await connect(port, LoadConnection(path, self._on_data))
        if hello is not None:
            self.connection.send(hello)

    def start(self) -> None:
        self._send(self.window)

    def _send(self, count: int) -> None:
        frames, at = self.frames, self.sent
        size = len(frames)
        self.connection.transport.write(b"".join([frames[(at + i) % size] for i in range(count)]))
        self.sent += count

    def _on_data(self, data: bytes) -> None:
        acked = self._acks.count(data)
        self.errors += sum(each.count(data) for each in self._refusals)
        self.acked += acked
        if acked and not self.stopping:
            self._send(acked)


@attrs.define(eq=False)
class PacedSender:
    """Sends on a schedule over one ``/ws`` connection and records seconds from intended send to ack."""

    payload: Callable[[int], bytes]
    record: Callable[[float], None]
    connection: LoadConnection = attrs.field(init=False)
    intended: dict[int, float] = attrs.field(factory=dict, init=False)
    _tail: bytes = attrs.field(default=b"", init=False)
    _order: deque[int] = attrs.field(factory=deque, init=False)

    async def open(self, port: int, hello: bytes) -> None:
        self.connection = await connect(port, LoadConnection("/ws", self._on_data))
        self.connection.send(hello)

    def send(self, ref: int, intended: float) -> None:
        self.intended[ref] = intended
        self.connection.send(self.payload(ref))

    def _on_data(self, data: bytes) -> None:
        now = time.perf_counter()
        data = self._tail + data
        end = 0
        for match in _REFS.finditer(data):
            if match.end() == len(data):
                break  # the number may go on in the next read
            end = match.end()
            intended = self.intended.pop(int(match[1]), None)
            if intended is not None:
                self.record(now - intended)
        self._tail = data[end:][-64:]
