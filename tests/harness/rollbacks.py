"""A proxy in front of MariaDB that rolls a transaction back at a chosen command, as a server does to its victim."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import attrs
from sqlalchemy import make_url

from tests.harness.ports import LOOPBACK

QUERY, PREPARE, EXECUTE, BULK_EXECUTE = b"\x03", b"\x16", b"\x17", b"\xfa"
ANSWERED = {QUERY, PREPARE, EXECUTE, BULK_EXECUTE}
DEADLOCK = b"\xff" + struct.pack("<H", 1213) + b"#40001" + b"Deadlock found when trying to get lock"


@attrs.define(eq=False)
class RollbackProxy:
    """Forwards everything but one command of one connection.

    Instead of that command the server gets a ROLLBACK, and the client the error 1213. A client that asks one thing at a
    time is assumed, and commands below 16 MiB.

    Attributes:
        after: commands still to come before that one; ``None``: there is none.
        met: the first byte of the command that was replaced.
    """

    target: tuple[str, int]
    port: int = attrs.field(init=False)
    after: int | None = attrs.field(default=None, init=False)
    met: bytes | None = attrs.field(default=None, init=False)

    def arm(self, after: int) -> None:
        self.after, self.met = after, None

    def is_next(self, command: bytes) -> bool:
        if self.after is None or command not in ANSWERED:
            return False
        self.after -= 1
        if self.after >= 0:
            return False
        self.after, self.met = None, command
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = _Relayed(*await asyncio.open_connection(*self.target), writer)
        answering = asyncio.create_task(server.answer())
        try:
            while True:
                head, body = await _packet(reader)
                if head[3] == 0 and self.is_next(body[:1]):
                    await server.roll_back()
                    writer.write(_framed(1, DEADLOCK))
                else:
                    server.writer.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answering.cancel()
            await asyncio.wait((answering,))
            for each in (writer, server.writer):
                each.close()


@attrs.define(eq=False)
class _Relayed:
    """The server's side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    client: asyncio.StreamWriter
    _rolled_back: asyncio.Future[None] | None = attrs.field(default=None, init=False)

    async def answer(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body = await _packet(self.reader)
                if self._rolled_back is None:
                    self.client.write(head + body)
                else:
                    assert body[:1] == b"\x00", f"ROLLBACK failed: {body!r}"
                    self._rolled_back.set_result(None)
        self.client.close()

    async def roll_back(self) -> None:
        self._rolled_back = asyncio.get_running_loop().create_future()
        self.writer.write(_framed(0, QUERY + b"ROLLBACK"))
        await self._rolled_back
        self._rolled_back = None


@contextlib.asynccontextmanager
async def rollback_proxy(url: str) -> AsyncIterator[tuple[RollbackProxy, str]]:
    """A proxy in front of a database, and the database's URL through it."""
    address = make_url(url)
    assert address.host, url
    assert address.port, url
    proxy = RollbackProxy((address.host, address.port))
    served: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(proxy.serve(reader, writer)))

    listener = await asyncio.start_server(begin, LOOPBACK, 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy, address.set(port=proxy.port).render_as_string(hide_password=False)
    finally:
        listener.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _packet(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Length (three bytes, little endian) and number, and the payload."""
    head = await reader.readexactly(4)
    return head, await reader.readexactly(int.from_bytes(head[:3], "little"))


def _framed(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload
