"""An answer that goes to the socket as it is, in one write.

aiohttp's own response costs more than everything else in an answer from memory: a header container, a compression
check and a payload writer for each. This one has its whole body at hand, is never compressed and never upgraded.
"""

from collections.abc import Mapping

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

_REASONS = {200: b"OK", 304: b"Not Modified"}


class Written(web.StreamResponse):
    """One answer to one request of HTTP/1.1; see `fits`.

    Args:
        status: 200 or 304.
        headers: besides ``Date``, ``Content-Length`` and ``Connection``; ASCII.
        body: all of it; empty with 304.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._line = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS[status])
        self._fields: dict[str, str] | CIMultiDict[str] = dict(headers)
        self._whole = body
        self._sent_status = status
        self._open = True

    @staticmethod
    def fits(request: web.Request) -> bool:
        """Whether this request can be answered so."""
        return request.method == "GET" and request.version == HttpVersion11

    @property
    def status(self) -> int:
        """Of the answer."""
        return self._sent_status

    @property
    def headers(self) -> CIMultiDict[str]:
        """May be added to until it is sent."""
        if not isinstance(self._fields, CIMultiDict):
            self._fields = CIMultiDict(self._fields)
        return self._fields

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
        fields = "".join([f"{name}: {value}\r\n" for name, value in self._fields.items()])
        if not self._open:
            fields += "Connection: close\r\n"
        if self._sent_status != 304:
            fields += f"Content-Length: {len(self._whole)}\r\n"
        head = f"{fields}Date: {rfc822_formatted_time()}\r\n\r\n".encode("ascii")
        transport.write(b"".join((self._line, head, self._whole)))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""
