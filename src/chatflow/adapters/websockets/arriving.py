"""A connection until its handshake is done: a proxy's header first, then the head of one request, both within a time.

The library would take a megabyte of head, line by line, and would hang up on what is no request. Here a head is
collected first; one that the library would not read is answered with 400.
"""

import asyncio
import re
import socket
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request
from websockets.server import ServerProtocol

from chatflow.adapters.websockets.doorway import Doorway, Newcomer
from chatflow.domain.admission.addresses import Client
from chatflow.domain.admission.answers import turned_away
from chatflow.domain.admission.proxy_protocol import InvalidProxyHeader, take_proxy_header

HEAD_BYTES = 16_384
"""Of a request that asks for a WebSocket."""

_HEAD_END = re.compile(rb"\n\r?\n")
_MALFORMED = turned_away(400, "this is no HTTP request that asks for a WebSocket\n")
_TOO_LONG = turned_away(431, f"a request has at most {HEAD_BYTES} bytes of head\n")
_TOO_LATE = turned_away(408, "the request did not end in time\n")


class ArrivingConnection(Newcomer):
    """One connection, whose bytes go nowhere before they are a request.

    Attributes:
        peer: address of its other end, or the one that its PROXY header names.
        client: who has sent its request; known when that is whole.
        is_arriving: its request is not whole, and it was not turned away.
    """

    def __init__(self, *args: Any, doorway: Doorway | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.peer = ""
        self.client = Client("", is_known=False)
        self.is_arriving = True
        self._doorway = Doorway() if doorway is None else doorway
        self._head = bytearray()
        self._expects_header = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if address else ""
        self._expects_header = self._doorway.expects_header(self.peer)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._doorway.send_buffer_bytes)
        self._deadline = self.loop.call_later(self._doorway.head_timeout_s, self._give_up)
        self._doorway.enter(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if not self.is_arriving:
            if self.request is not None:
                super().data_received(data)
        elif (rest := self.take_head(data)) is not None and rest:
            super().data_received(rest)

    def take_head(self, data: bytes) -> bytes | None:
        """Take what has come; when the request is whole, the library has it, and this returns what follows it."""
        self._head += data
        try:
            if self._expects_header and not self._take_proxy_header():
                return None
        except InvalidProxyHeader as exc:
            self._refuse(turned_away(400, f"{exc}\n"))
            return None
        end = _HEAD_END.search(self._head, max(0, len(self._head) - len(data) - 3))
        if self._head and not self._head[:1].isalpha():
            self._refuse(_MALFORMED)
        elif (len(self._head) if end is None else end.end()) > HEAD_BYTES:
            self._refuse(_TOO_LONG)
        elif end is not None:
            return self._take_request(end.end())
        return None

    def turn_away(self, answer: bytes) -> None:
        """See `Newcomer.turn_away`."""
        self._stop_waiting()
        self.transport.write(answer)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_waiting()
        self._doorway.leave(self)
        super().connection_lost(exc)

    def identify(self, request: Request) -> Client:
        """Who has sent its request."""
        self.client = self._doorway.admission.client(self.peer, request.headers.get_all)
        return self.client

    def welcomed(self) -> None:
        """Its handshake is done."""
        self._doorway.leave(self)

    def _take_proxy_header(self) -> bool:
        header = take_proxy_header(self._head)
        if header is None:
            return False
        self._expects_header = False
        self.peer = header.source or self.peer
        return True

    def _take_request(self, size: int) -> bytes | None:
        head, rest = bytes(self._head[:size]), bytes(self._head[size:])
        if not _is_readable(head):
            self._refuse(_MALFORMED)
            return None
        self._stop_waiting()
        self._doorway.asks(self)
        ServerConnection.data_received(self, head)
        return rest

    def _refuse(self, answer: bytes) -> None:
        self._doorway.admission.metrics.heads_refused += 1
        self.turn_away(answer)

    def _give_up(self) -> None:
        if self._head:
            self._refuse(_TOO_LATE)
        else:
            self._doorway.admission.metrics.heads_refused += 1
            self.turn_away(b"")

    def _stop_waiting(self) -> None:
        self.is_arriving = False
        self._head = bytearray()
        if self._deadline is not None:
            self._deadline.cancel()


def _is_readable(head: bytes) -> bool:
    """Whether the library can read this request; it would not answer one that it cannot."""
    probe = ServerProtocol()
    probe.receive_data(head)
    return probe.handshake_exc is None
