"""Every private or undocumented part of ``websockets`` that the adapter touches; no other module may.

| touched | what for | what breaks | noticed by |
|---|---|---|---|
| `ServerConnection.data_received` overridden and called with pieces | 40,000 frames in one read do not stop the loop \
    | pacing, memory limits | check 1 |
| `ServerConnection.process_event` overridden, `request`, fields of `Frame` \
    | an inbox of ours, a price for pings \
    | reading | checks 1 and 2 |
| `ServerConnection.protocol` written to, `send_data`, `transport.write` \
    | write without waiting, several frames in one system call | writing, closing | check 3 |
| `ServerConnection.transport`: buffer size, `pause_reading`, `abort`, its socket \
    | outbound limit, backpressure, deadlines, resets that nobody reads | all limits | checks 3 and 4 |
| `pause_writing`, `resume_writing`, `connection_lost` overridden, `paused` \
    | slow readers, the end of a connection | backpressure | check 4 |

`CHECKS` run before the gateway listens, see `uses_private_parts`: if one fails, the gateway serves `PublicPeer`
and says so once. That one reads a message at a time and writes a frame at a time, does not charge for pings, and lets
the library parse whole reads.
"""

import asyncio
import contextlib
import fcntl
import select
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.version import version

from chatflow.domain.resilience.self_check import failed_checks
from chatflow.ports.tls import TlsListener

HANG_UP = getattr(select, "POLLRDHUP", 0)
"""Besides errors and resets, which are always told."""

log = structlog.get_logger()


class DirectPeer(ServerConnection):
    """The library's connection with its inside in reach. `GatewayConnection` says what happens.

    Attributes:
        raw_transport: the one below the transport that encrypts; ``None`` without TLS.
    """

    raw_transport: asyncio.Transport | None = None

    parse = ServerConnection.data_received
    """Take frames apart; each comes to `data_frame` or `control_frame` before this returns. `data_received`, which the
    event loop calls, may do so at once or later."""

    def data_frame(self, frame: Frame) -> None:
        """A frame of a message was parsed."""

    def control_frame(self) -> None:
        """A ping, pong or close was parsed and answered."""

    def writing_paused(self) -> None:
        """The peer reads slower than we write."""

    def writing_resumed(self) -> None:
        """The peer has read most of it."""

    def lost(self) -> None:
        """The connection has gone."""

    def process_event(self, event: Event) -> None:
        """Called by the library for each frame."""
        if self.request is None or not isinstance(event, Frame):
            super().process_event(event)
        elif event.opcode in DATA_OPCODES:
            self.data_frame(event)
        else:
            super().process_event(event)
            self.control_frame()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        super().pause_writing()
        self.writing_paused()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        super().resume_writing()
        self.writing_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        super().connection_lost(exc)
        self.lost()

    def is_open(self) -> bool:
        """Whether frames sent now may reach the peer."""
        return self.protocol.state is State.OPEN

    def is_closing(self) -> bool:
        """Whether the closing handshake is under way."""
        return self.protocol.state is State.CLOSING

    def write_frames(self, frames: Sequence[bytes]) -> None:
        """Write text frames without waiting, several in one system call: each call costs more than a small frame."""
        protocol = self.protocol
        for frame in frames:
            protocol.send_text(frame)
        self.transport.write(b"".join(protocol.data_to_send()))

    def write_close(self, code: int, reason: str) -> None:
        """Start the closing handshake without waiting."""
        self.protocol.send_close(code, reason)
        self.send_data()

    def write_ping(self, payload: bytes) -> None:
        """Ping without waiting; `data_received` hears of the pong."""
        self.protocol.send_ping(payload)
        self.send_data()

    def unsent_bytes(self) -> int:
        """What waits in the transport, and in the one below it."""
        if (raw := self.raw_transport) is None:
            return self.transport.get_write_buffer_size()
        return self.transport.get_write_buffer_size() + raw.get_write_buffer_size()

    def kernel_bytes(self) -> int:
        """What the kernel has taken and the peer has not confirmed; at most about twice ``SO_SNDBUF``."""
        unread = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(unread, sys.byteorder)

    def listen(self, is_listening: bool) -> None:
        """Read from the transport, or leave what comes to the kernel."""
        if not self.transport.is_closing():
            (self.transport.resume_reading if is_listening else self.transport.pause_reading)()
            if (raw := self.raw_transport) is not None and not raw.is_closing():  # else it would read on, uncounted
                (raw.resume_reading if is_listening else raw.pause_reading)()

    def is_writing_paused(self) -> bool:
        """Whether the peer reads slower than we write."""
        return self.paused

    def has_hung_up(self) -> bool:
        """Whether the peer has gone although what it sent is not read yet: a transport at rest does not hear of it."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), HANG_UP)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()


def encrypted(make: type[ServerConnection], tls: TlsListener) -> type[ServerConnection]:
    """The same kind of connection, which begins after a TLS handshake."""

    class EncryptedConnection(make):  # type: ignore[misc, valid-type]  # of either kind
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            tls.encrypt(transport, self, self._secured)

        def _secured(self, transport: asyncio.Transport, raw: asyncio.Transport) -> None:
            self.raw_transport = raw
            super().connection_made(transport)

    return EncryptedConnection


def uses_private_parts(*, forced_fallback: bool = False) -> bool:
    """Whether the library is as `DirectPeer` expects; otherwise says so once. Needs a running event loop."""
    if failed := failed_checks(CHECKS, forced=forced_fallback):
        log.warning("gateway.driver_fallback", failed=failed, websockets=version)
    return not failed


REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: check\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = bytes(4)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reads = True

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class _Server:
    def __init__(self) -> None:
        self.handler_tasks: set[asyncio.Task[None]] = set()

    async def handler(self, _: ServerConnection) -> None: ...


class _Probe(DirectPeer):
    """A connection over nothing, after its handshake."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        super().__init__(ServerProtocol(), _Server())  # type: ignore[arg-type]
        self.wire = _Transport()
        self.connection_made(self.wire)
        self.data_received(REQUEST)
        if self.request is not None:
            self.protocol.send_response(self.protocol.accept(self.request))
            self.send_data()
        self.wire.written = b""

    def data_received(self, data: bytes) -> None:
        self.parse(data)

    def data_frame(self, frame: Frame) -> None:
        self.seen.append((frame.opcode, frame.fin, bytes(frame.data)))

    def control_frame(self) -> None:
        self.seen.append("control")

    def writing_paused(self) -> None:
        self.seen.append("paused")

    def writing_resumed(self) -> None:
        self.seen.append("resumed")

    def lost(self) -> None:
        self.seen.append("lost")


def _parses_frames() -> bool:
    probe = _Probe()
    probe.data_received(b"\x01\x81" + MASK + b"a")
    probe.data_received(b"\x80\x81" + MASK + b"b\x82\x80" + MASK)
    return probe.seen == [(Opcode.TEXT, False, b"a"), (Opcode.CONT, True, b"b"), (Opcode.BINARY, True, b"")]


def _answers_pings() -> bool:
    probe = _Probe()
    probe.data_received(b"\x89\x81" + MASK + b"p")
    return probe.seen == ["control"] and probe.wire.written == b"\x8a\x01p"


def _writes_frames() -> bool:
    probe = _Probe()
    probe.write_frames([b"a"])
    probe.write_frames([b"b", b"c"])
    probe.write_ping(b"p")
    probe.write_close(1008, "x")
    wrote = probe.wire.written == b"\x81\x01a\x81\x01b\x81\x01c\x89\x01p\x88\x03\x03\xf0x"
    return wrote and probe.unsent_bytes() == len(probe.wire.written) and probe.is_closing()


def _hears_of_the_transport() -> bool:
    probe = _Probe()
    probe.listen(False)
    stopped = not probe.wire.reads
    probe.listen(True)
    probe.pause_writing()
    was_paused = probe.paused
    probe.resume_writing()
    with contextlib.suppress(ConnectionError):
        probe.connection_lost(ConnectionResetError())
    listens = stopped and probe.wire.reads
    return listens and was_paused and not probe.paused and probe.seen == ["paused", "resumed", "lost"]


CHECKS: Mapping[str, Callable[[], bool]] = {
    "frames come to process_event as they are parsed": _parses_frames,
    "pings are answered by the library": _answers_pings,
    "frames, pings and closes are written without waiting": _writes_frames,
    "the transport's callbacks can be overridden": _hears_of_the_transport,
}
