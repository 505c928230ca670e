"""An answer that goes to the socket as it is, in one write, and again without asking aiohttp.

aiohttp's own response costs more than everything else in an answer from memory: a header container, a compression
check and a payload writer for each. This one has its whole body at hand, is never compressed and never upgraded.

What its request asked for may be asked again in the same bytes, see `repeating`.
"""

from collections.abc import Callable, Mapping

import attrs
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

from chatflow.adapters.aiohttp.repeating import RepeatingHandler

_REASONS = {200: "OK", 304: "Not Modified"}


@attrs.frozen
class Reply:
    """What differs from one answer to the next.

    Attributes:
        status: 200 or 304.
        fields: headers besides ``Date``, ``Content-Length`` and ``Connection``; ASCII.
        body: in parts; empty with 304.
    """

    status: int
    fields: Mapping[str, str]
    body: tuple[bytes | memoryview, ...] = ()

    def encoded(self, more: str) -> bytes:
        """The bytes of it; ``more``: further header lines."""
        if self.status != 304:
            more = f"{more}Content-Length: {sum(map(len, self.body))}\r\n"
        head = f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n{_lines(self.fields)}{more}{_date()}\r\n\r\n"
        return b"".join((head.encode("ascii"), *self.body))


def respond(request: web.Request, reply: Reply, again: Callable[[], Reply | None]) -> web.StreamResponse:
    """Answer a request.

    Args:
        request: any.
        reply: now.
        again: another reply to the same request, later; ``None``: it has to be asked as if for the first time.
    """
    if request.method == hdrs.METH_GET and request.version == HttpVersion11:
        return _Written(reply, again)
    return web.Response(status=reply.status, headers=reply.fields, body=b"".join(reply.body))


class _Written(web.StreamResponse):
    """One answer to one request of HTTP/1.1."""

    def __init__(self, reply: Reply, again: Callable[[], Reply | None]) -> None:
        self._reply = reply
        self._again = again
        self._more: CIMultiDict[str] | None = None
        self._open = True

    @property
    def status(self) -> int:
        """Of the answer."""
        return self._reply.status

    @property
    def headers(self) -> CIMultiDict[str]:
        """To be added to those of the reply, the same each time; until it is sent."""
        if self._more is None:
            self._more = CIMultiDict()
        return self._more

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return self._open

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it, and wait while the client reads too slowly.

        Raises:
            ConnectionResetError: the client is gone.
        """
        self._open = bool(request.keep_alive)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        more = "" if self._more is None else _lines(self._more)
        transport.write(self._reply.encoded(more if self._open else f"{more}Connection: close\r\n"))
        if self._open and isinstance(request.protocol, RepeatingHandler):
            request.protocol.answered(request, _repeating(self._again, more))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""


def _repeating(again: Callable[[], Reply | None], more: str) -> Callable[[], bytes | None]:
    """What is remembered of a request: how to answer it, and not what was answered."""

    def repeated() -> bytes | None:
        reply = again()
        return None if reply is None else reply.encoded(more)

    return repeated


def _lines(fields: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def _date() -> str:
    return f"Date: {rfc822_formatted_time()}"
