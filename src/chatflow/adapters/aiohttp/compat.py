"""Answers that aiohttp would make dearer than the answers themselves: undocumented parts of aiohttp, all of them here.

* A *direct response* is one write to the transport: no header container, compression check or payload writer.
* A *repeated request*, byte for byte a head that came before, is answered without being parsed, routed or given a task.
  Whoever answered it the first time left behind how to answer the same bytes again; that looks into the local cache,
  never waits, and leaves the request to aiohttp when it has no answer. It is asked only if the bytes are the whole head
  of one GET without a body, on a connection whose parser is between two requests and which owes no other answer: order
  and framing stay aiohttp's.

What is used, of aiohttp 3.14, and how a change is noticed (``CHECKS``, run at start; tests/integration/test_api_*):

| part | for | if it changes |
|---|---|---|
| ``RequestHandler.__init__``, ``data_received`` | a handler of our own per connection | check |
| ``RequestHandler._waiter`` | knowing that a connection owes no answer | check; else answers come out of order: tests |
| ``RequestHandler._next_keepalive_close_time``, ``_loop`` | keeping an idle connection open | check |
| ``RequestHandler.keepalive_timeout`` | the same | check |
| ``RequestHandler.connection_lost``, ``force_close`` | a deadline for heads | check; tests |
| ``RequestHandler.writing_paused`` | not writing to a client that does not read | check; tests: a slow reader |
| ``RequestHandler.handle_error`` | refusing in JSON what cannot be parsed, unlogged | check; tests |
| ``StreamResponse.prepare``, ``write_eof`` | a direct response | check; every test of an answer |
| ``Request.protocol``, ``Request.writer`` | finding the handler; waiting for a slow reader | check; tests |
| ``helpers.rfc822_formatted_time`` | the ``Date`` header | check |

When a check fails, `serve` logs one warning and everything goes through `web.Response` and aiohttp's own connections.
Those answer what they cannot parse in words of their own, and give the second request of a connection as long to come
as the connection may be idle.
"""

import asyncio
import functools
import http
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
from aiohttp import HttpVersion11, hdrs, helpers, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from chatflow.adapters.aiohttp.errors import refusal
from chatflow.adapters.aiohttp.repeats import Again, Repeats
from chatflow.domain.resilience.self_check import failed_checks

HEAD_END = b"\r\n\r\n"
LONGEST_HEAD = 2048
"""Bytes; a longer one is not remembered."""

SERVER_ERROR = 500

DIRECT: web.AppKey[bool] = web.AppKey("direct", bool)
"""Set in an application whose connections are `DirectHandler`s."""


@attrs.frozen
class Reply:
    """What differs from one answer to the next.

    Attributes:
        status: not one that a body may not come with, but for 304.
        fields: headers besides ``Date``, ``Content-Length`` and ``Connection``; ASCII.
        body: in parts; empty with 304.
    """

    status: int
    fields: Mapping[str, str]
    body: tuple[bytes | memoryview, ...] = ()

    def encoded(self, more: str) -> bytes:
        """The whole HTTP answer; ``more``: further header lines."""
        if self.status != 304:
            more = f"{more}Content-Length: {sum(map(len, self.body))}\r\n"
        date = f"Date: {helpers.rfc822_formatted_time()}"
        head = f"HTTP/1.1 {self.status} {_phrase(self.status)}\r\n{_lines(self.fields)}{more}{date}\r\n\r\n"
        return b"".join((head.encode("ascii"), *self.body))


def respond(request: web.Request, reply: Reply, again: Callable[[], Reply | None] | None) -> web.StreamResponse:
    """Answer a request.

    Args:
        request: any.
        reply: now.
        again: another reply to the same request, later; if that is ``None``, or there is none, the request has to be
            handled as if for the first time: its token may have ended.
    """
    if request.method == hdrs.METH_GET and request.version == HttpVersion11 and request.app.get(DIRECT, False):
        return DirectResponse(reply, again)
    return web.Response(status=reply.status, headers=reply.fields, body=b"".join(reply.body))


class DirectResponse(web.StreamResponse):
    """One answer to one request of HTTP/1.1."""

    def __init__(self, reply: Reply, again: Callable[[], Reply | None] | None, *, closes: bool = False) -> None:
        self._reply = reply
        self._again = again
        self._closes = closes
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
        self._open = not self._closes and bool(request.keep_alive)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        more = "" if self._more is None else _lines(self._more)
        transport.write(self._reply.encoded(more if self._open else f"{more}Connection: close\r\n"))
        if self._again is not None and self._open and isinstance(request.protocol, DirectHandler):
            request.protocol.answered(request, _repeating(self._again, more))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""


class DirectHandler(web.RequestHandler):
    """aiohttp's own connection, which gets only the requests that are not repeated."""

    __slots__ = ("_head", "_head_overdue", "_head_timeout_s", "_is_between", "_repeats")

    def __init__(self, server: web.Server, repeats: Repeats, *, head_timeout_s: float, **options: Any) -> None:
        super().__init__(server, **options)
        self._repeats = repeats
        self._head_timeout_s = head_timeout_s
        self._head_overdue: asyncio.TimerHandle | None = None
        self._head: bytes | None = None
        self._is_between = True

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._head = None
        if self._is_between and self._is_waiting():
            if not self.writing_paused and (answer := self._repeats.answer(data)) is not None:
                self._send(answer)
                return
            if _is_one_head(data):
                self._head = data
        self._is_between = data.endswith(HEAD_END)
        super().data_received(data)
        if self._head_overdue is not None:
            if not self._is_waiting():
                self._stop_timer()
        elif self._is_waiting():
            self._head_overdue = self._loop.call_later(self._head_timeout_s, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        super().connection_lost(exc)

    def is_idle(self) -> bool:
        """Whether it can be closed without anybody missing an answer."""
        return self._is_waiting() and self._head_overdue is None

    def answered(self, request: web.BaseRequest, again: Again) -> None:
        """This request, the one under way, may be answered so when it comes again."""
        if self._head is not None and not request.body_exists and hdrs.UPGRADE not in request.headers:
            self._repeats.remember(self._head, again)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what cannot be parsed like any other request, and do not log it: anybody can send any number."""
        if status >= SERVER_ERROR or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        refused = refusal(status, "bad_request", "this is no HTTP request that can be read here")
        fields = {**refused.headers, "X-Content-Type-Options": "nosniff"}
        return DirectResponse(Reply(status, fields, (cast("bytes", refused.body),)), again=None, closes=True)

    def _stop_timer(self) -> None:
        if self._head_overdue is not None:
            self._head_overdue.cancel()
            self._head_overdue = None

    def _is_waiting(self) -> bool:
        """Nothing is under way or queued, and the parser has no request that it began."""
        return self._waiter is not None and not self._waiter.done()

    def _send(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
            self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout


@functools.cache
def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase


def _is_one_head(data: bytes) -> bool:
    return len(data) <= LONGEST_HEAD and data.startswith(b"GET ") and data.find(HEAD_END) == len(data) - len(HEAD_END)


def _repeating(again: Callable[[], Reply | None], more: str) -> Again:
    """What is remembered of a request: how to answer it, and not what was answered."""

    def repeated() -> bytes | None:
        reply = again()
        return None if reply is None else reply.encoded(more)

    return repeated


def _lines(fields: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def _takes(function: Callable[..., Any], *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


def _knows_its_waiter() -> bool:
    """``start`` waits for the next request on the ``_waiter`` that it makes, and ``data_received`` ends that wait."""
    waits, receives = web.RequestHandler.start.__code__, web.RequestHandler.data_received.__code__
    return "_waiter" in waits.co_names and "_waiter" in receives.co_names


def _keeps_alive_by_its_time() -> bool:
    """The keep-alive timer asks ``_next_keepalive_close_time`` whether it is too early."""
    return "_next_keepalive_close_time" in web.RequestHandler._process_keepalive.__code__.co_names


def _are_properties(owner: type, *names: str) -> bool:
    return all(isinstance(inspect.getattr_static(owner, name), property) for name in names)


CHECKS: Mapping[str, Callable[[], bool]] = {
    "RequestHandler()": lambda: _takes(
        web.RequestHandler.__init__, "manager", "loop", "access_log", "keepalive_timeout"
    ),
    "RequestHandler.force_close": lambda: callable(web.RequestHandler.force_close),
    "RequestHandler._waiter": _knows_its_waiter,
    "RequestHandler._next_keepalive_close_time": _keeps_alive_by_its_time,
    "RequestHandler's properties": lambda: _are_properties(web.RequestHandler, "keepalive_timeout", "writing_paused"),
    "RequestHandler.handle_error": lambda: _takes(web.RequestHandler.handle_error, "status", "exc", "message"),
    "StreamResponse.prepare": lambda: _takes(web.StreamResponse.prepare, "request"),
    "StreamResponse.write_eof": lambda: _takes(web.StreamResponse.write_eof, "data"),
    "Request's properties": lambda: _are_properties(web.BaseRequest, "protocol", "writer", "transport"),
    "rfc822_formatted_time": lambda: helpers.rfc822_formatted_time().endswith(" GMT"),
}


def unexpected(*, forced: bool = False) -> list[str]:
    """The parts of aiohttp that are not as this module expects; see `failed_checks`."""
    return failed_checks(CHECKS, forced=forced)


def handlers(runner: web.AppRunner, *, head_timeout_s: float, keepalive_s: float) -> Callable[[str], DirectHandler]:
    """Makes the `DirectHandler`s of an application that was marked as `DIRECT`.

    What was answered is remembered for each standing of a peer apart: another peer might have been refused.
    """
    loop, repeats = asyncio.get_running_loop(), defaultdict[str, Repeats](Repeats)

    def make(standing: str) -> DirectHandler:
        if runner.server is None:
            raise ConnectionAbortedError("the application is closed")
        return DirectHandler(
            runner.server,
            repeats[standing],
            head_timeout_s=head_timeout_s,
            loop=loop,
            access_log=None,
            keepalive_timeout=keepalive_s,
        )

    return make
