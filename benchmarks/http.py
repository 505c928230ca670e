"""An HTTP client that costs little: one request at a time on a kept connection, answers read by ``Content-Length``."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

import attrs

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TIER = re.compile(rb"\r\nx-cache: *(\w+)", re.IGNORECASE)
_ERROR = re.compile(rb'"error":"(\w+)"')
REFUSALS = 400
HEAD_END = b"\r\n\r\n"


def get_request(path: str) -> bytes:
    """The bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@attrs.frozen
class HttpAnswer:
    """``tier``: what ``X-Cache`` said, ``error``: what a refusal names; empty without."""

    status: int
    tier: str
    body_bytes: int
    error: str = ""


@attrs.define(eq=False)
class HttpConnection(asyncio.Protocol):
    """One connection; send the next request only after ``on_answer`` had the last one's answer."""

    on_answer: Callable[[HttpAnswer], None] = lambda _: None
    on_lost: Callable[[], None] = lambda: None
    transport: asyncio.Transport = attrs.field(init=False)
    _buffer: bytes = attrs.field(default=b"", init=False)
    _left: int = attrs.field(default=0, init=False)
    _answer: HttpAnswer | None = attrs.field(default=None, init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            head, found, rest = (self._buffer + data).partition(HEAD_END)
            if not found:
                self._buffer = head
                return
            self._buffer = b""
            self._answer = _read_head(head)
            self._left, data = self._answer.body_bytes, rest
        self._left -= len(data)
        if self._answer.status >= REFUSALS:
            self._buffer += data
        if self._left <= 0:
            answer, self._answer = self._answer, None
            if self._buffer:
                answer, self._buffer = _named(answer, self._buffer), b""
            self.on_answer(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_lost()

    def send(self, request: bytes) -> None:
        self.transport.write(request)


def _read_head(head: bytes) -> HttpAnswer:
    length, tier = _LENGTH.search(head), _TIER.search(head)
    if length is None:
        raise ConnectionError(f"no Content-Length: {head!r}")
    return HttpAnswer(int(head[9:12]), tier[1].decode() if tier else "", int(length[1]))


def _named(answer: HttpAnswer, body: bytes) -> HttpAnswer:
    error = _ERROR.search(body)
    return attrs.evolve(answer, error=error[1].decode() if error else "")


async def connect(port: int, connection: HttpConnection) -> HttpConnection:
    """``connection``, once it is open."""
    await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
    return connection


async def timed_get(port: int, path: str) -> tuple[HttpAnswer, float]:
    """One GET on a connection of its own; seconds from sending it to the end of its answer.

    Raises:
        ConnectionError: no answer came.
    """
    answered: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()

    def lost() -> None:
        if not answered.done():
            answered.set_exception(ConnectionError("closed before the answer"))

    connection = await connect(port, HttpConnection(answered.set_result, lost))
    begin = time.perf_counter()
    connection.send(get_request(path))
    try:
        return await answered, time.perf_counter() - begin
    finally:
        connection.transport.abort()
