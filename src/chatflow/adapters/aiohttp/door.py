"""A port's connections until their first request is whole: how many there may be, for how long, and from where.

aiohttp waits for a request without a limit. Here a connection gets to it when the head of its first request has come;
until then it costs a few kilobytes, and is the first to go when the port is full.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

import attrs
import msgspec
from aiohttp import web

from chatflow.adapters.aiohttp.errors import JSON
from chatflow.adapters.aiohttp.schemas import Refused
from chatflow.domain.admission.answers import turned_away
from chatflow.domain.admission.bounds import HEAD_TIMEOUT_S, HTTP_CONNECTIONS_MAX, KEEPALIVE_S
from chatflow.domain.admission.proxy_protocol import InvalidProxyHeader, take_proxy_header
from chatflow.domain.admission.rules import Admission, Standing

HEAD_BYTES = 32_768
RETRY_S = 1
PRUNE_LEAST = 64

_HEAD_END = re.compile(rb"\n\r?\n")
_PROBE = re.compile(rb"GET /health(?:\?[^ \r\n]*)? HTTP/1\.1\r\n")
"""A balancer may ask without a ``Host``, which aiohttp would refuse."""

_HOST = re.compile(rb"(?i)\nhost[ \t]*:")


@attrs.frozen
class PortLimits:
    """What the clients of one HTTP port may hold.

    Attributes:
        connections: open ones; more take the place of idle ones, or are answered with 503.
        head_timeout_s: seconds that the head of a request may take.
        keepalive_s: seconds that a connection may be idle between two requests.
        proxy_protocol: connections from trusted proxies begin with a PROXY header.
    """

    connections: int = HTTP_CONNECTIONS_MAX
    head_timeout_s: float = HEAD_TIMEOUT_S
    keepalive_s: float = KEEPALIVE_S
    proxy_protocol: bool = False


@attrs.frozen
class Connected:
    """A connection that aiohttp has.

    Attributes:
        handler: its protocol.
        is_idle: whether it can be closed without anybody missing an answer.
        peer: address of its other end, or the one that a PROXY header names.
    """

    handler: asyncio.Protocol
    is_idle: Callable[[], bool]
    peer: str = ""


MakeHandler = Callable[[Standing], Connected]


@attrs.define(eq=False)
class PortDoor:
    """Every connection of one port, the oldest first."""

    admission: Admission
    limits: PortLimits
    make_handler: MakeHandler
    _silent: dict["Entering", None] = attrs.field(factory=dict, init=False)
    _served: dict[asyncio.BaseTransport, Connected] = attrs.field(factory=dict, init=False)
    _prune_at: int = attrs.field(default=PRUNE_LEAST, init=False)

    def __len__(self) -> int:
        self._prune()
        return len(self._silent) + len(self._served)

    def connected(self) -> "Entering":
        """The protocol of a new connection."""
        return Entering(self)

    def peer_of(self, request: web.BaseRequest) -> str:
        """Address of the client or of the nearest proxy that no PROXY header has named."""
        served = None if request.transport is None else self._served.get(request.transport)
        return "" if served is None else served.peer

    def expects_header(self, peer: str) -> bool:
        """Whether a connection from there begins with a PROXY header."""
        return self.limits.proxy_protocol and self.admission.standing(peer) == "proxy"

    def enter(self, entering: "Entering") -> bool:
        """It has connected; whether there is room."""
        if len(self._silent) + len(self._served) >= min(self.limits.connections, self._prune_at):
            self._prune()
        if len(self._silent) + len(self._served) >= self.limits.connections and not self._made_room():
            self.admission.metrics.connections_refused += 1
            return False
        self._silent[entering] = None
        return True

    def serve(self, entering: "Entering", transport: asyncio.Transport) -> asyncio.Protocol:
        """Its first request is whole: the protocol that it gets."""
        connected = self.make_handler(self.admission.standing(entering.peer))
        self._served[transport] = attrs.evolve(connected, peer=entering.peer)
        return connected.handler

    def leave(self, entering: "Entering") -> None:
        """It has gone, or was turned away."""
        self._silent.pop(entering, None)

    def _made_room(self) -> bool:
        for entering in self._silent:
            entering.turn_away(_refused(503, "overloaded", "too many connections", retry_s=RETRY_S))
            break
        else:
            transport = next((each for each, served in self._served.items() if served.is_idle()), None)
            if transport is None:
                return False
            del self._served[transport]
            transport.close()
        self.admission.metrics.connections_dropped += 1
        return True

    def _prune(self) -> None:
        """Forget who has gone: nobody tells us."""
        for transport in [each for each in self._served if each.is_closing()]:
            del self._served[transport]
        self._prune_at = max(PRUNE_LEAST, 2 * (len(self._silent) + len(self._served)))


class Entering(asyncio.Protocol):
    """One connection until the head of its first request has come."""

    peer = ""

    def __init__(self, door: PortDoor) -> None:
        self._door = door
        self._head = bytearray()
        self._is_waiting = False
        self._expects_header = False
        self._handler: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if address else ""
        if not self._door.enter(self):
            self.turn_away(_refused(503, "overloaded", "too many connections", retry_s=RETRY_S))
            return
        self._is_waiting = True
        self._expects_header = self._door.expects_header(self.peer)
        self._deadline = asyncio.get_running_loop().call_later(self._door.limits.head_timeout_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._head += data
        if not self._is_waiting:
            return
        try:
            if self._expects_header and not self._take_proxy_header():
                return
        except InvalidProxyHeader as exc:
            self._refuse(_refused(400, "bad_request", str(exc)))
            return
        if self._head.startswith((b"\r", b"\n")):  # before a request they mean nothing (RFC 9112, section 2.2)
            self._head = self._head.lstrip(b"\r\n")
        seen = max(0, len(self._head) - len(data) - 3)
        if _HEAD_END.search(self._head, seen) or (self._head and not self._head[:1].isalpha()):
            self._hand_over()  # also what begins like no request: aiohttp says so
        elif len(self._head) > HEAD_BYTES:
            self._refuse(_refused(431, "bad_request", f"a request has at most {HEAD_BYTES} bytes of head"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._end()
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def turn_away(self, answer: bytes) -> None:
        """Answer with this, and read nothing more."""
        self._end()
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.write(answer)
            self._transport.close()

    def _take_proxy_header(self) -> bool:
        header = take_proxy_header(self._head)
        if header is None:
            return False
        self._expects_header = False
        self.peer = header.source or self.peer
        return True

    def _hand_over(self) -> None:
        assert self._transport is not None  # noqa: S101  # it was made
        handler = self._handler = self._door.serve(self, self._transport)
        self._end()
        handler.connection_made(self._transport)
        asyncio.get_running_loop().call_soon(self._deliver)  # when the handler waits for a request

    def _deliver(self) -> None:
        if self._transport is not None and self._handler is not None and not self._transport.is_closing():
            self._transport.set_protocol(self._handler)
            head = bytes(self._head)
            if (probe := _PROBE.match(head)) and not _HOST.search(head):
                head = head[: probe.end()] + b"Host: localhost\r\n" + head[probe.end() :]
            self._handler.data_received(head)

    def _refuse(self, answer: bytes) -> None:
        self._door.admission.metrics.heads_refused += 1
        self.turn_away(answer)

    def _give_up(self) -> None:
        self._refuse(_refused(408, "bad_request", "the request did not end in time") if self._head else b"")

    def _end(self) -> None:
        self._is_waiting = False
        self._door.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()


def _refused(status: int, error: str, reason: str, *, retry_s: int = 0) -> bytes:
    return turned_away(status, msgspec.json.encode(Refused(error, reason)).decode(), JSON, retry_s=retry_s)
