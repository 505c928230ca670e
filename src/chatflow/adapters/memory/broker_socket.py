"""A Unix socket in front of an in-process broker, so that another process of the same user can publish to it.

One JSON line asks for one publish and one answers it, in order:

    {"messages":[{...},...]}                       all of one room's partition
    {"error":null} | {"error":"...","full":false}
"""

import asyncio
import contextlib
import json
from pathlib import Path

import attrs

from chatflow.domain.messages.rooms import partition_of
from chatflow.ports.broker import Envelope, EnvelopePublisher, envelope_of
from chatflow.ports.errors import BrokerFull, BrokerUnavailable
from chatflow.ports.messages import Message

LINE_BYTES = 2**26
"""The longest request; an envelope is far shorter."""


@attrs.define(eq=False)
class BrokerSocketServer:
    """Publishes for whoever connects; the file mode admits only the user that runs this process."""

    broker: EnvelopePublisher
    partitions: int
    path: Path
    _server: asyncio.Server | None = attrs.field(default=None, init=False)
    _clients: set[asyncio.StreamWriter] = attrs.field(factory=set, init=False)

    async def start(self) -> None:
        """Listen; takes over a socket file that a killed process has left.

        Raises:
            OSError: the path is too long for a socket, or its directory cannot be written.
        """
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=LINE_BYTES)
        self.path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening, end every connection and remove the file; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for client in tuple(self._clients):
            client.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            with contextlib.suppress(OSError):
                while line := await reader.readline():
                    writer.write(await self._answer(line))
                    await writer.drain()
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        messages = [Message(**fields) for fields in json.loads(line)["messages"]]
        try:
            await self.broker.publish(envelope_of(partition_of(messages[0].room_id, self.partitions), messages))
        except (BrokerFull, BrokerUnavailable) as exc:
            return _line({"error": str(exc), "full": isinstance(exc, BrokerFull)})
        return _line({"error": None})


@attrs.define(eq=False)
class BrokerSocket:
    """The other end: a publish here is one there, confirm included."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def publish(self, envelope: Envelope) -> None:
        """See `Broker.publish`."""
        self._writer.write(_line({"messages": [attrs.asdict(message) for message in envelope.messages]}))
        try:
            await self._writer.drain()
            line = await self._reader.readline()
        except OSError as exc:
            raise BrokerUnavailable(f"the process that holds the broker went away: {exc}") from exc
        if not line:
            raise BrokerUnavailable("the process that holds the broker went away")
        answer = json.loads(line)
        if answer["error"] is not None:
            raise (BrokerFull if answer["full"] else BrokerUnavailable)(answer["error"])

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()


async def connect_broker_socket(path: Path) -> BrokerSocket | None:
    """A connection to the process that serves this socket; ``None`` when there is none."""
    try:
        return BrokerSocket(*await asyncio.open_unix_connection(str(path)))
    except OSError:
        return None


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
