"""Requests that came before, byte for byte, are answered without being parsed, routed or given a task again.

A dashboard, a load balancer's check or a page that polls sends the same head over and over. The first time it takes
the usual way; whoever answers may say how to answer *the same bytes* again. From then on that is asked first, as soon
as they arrive, and only when it has no answer at hand do they take the usual way again.

Nothing is answered so unless the bytes are the whole head of one GET without a body, on a connection whose parser is
between two requests and which owes no other answer: order and framing stay what aiohttp makes them.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs
from aiohttp import hdrs, web

from chatflow.adapters.aiohttp.errors import refusal

HEAD_END = b"\r\n\r\n"
LONGEST_HEAD = 2048
"""Bytes; a longer one is not remembered."""

SERVER_ERROR = 500

Again = Callable[[], bytes | None]
"""The whole HTTP answer to a request that came before; ``None``: it has to take the usual way."""


@attrs.define(eq=False)
class Repeats:
    """Heads that came before, and how to answer them again; the oldest go first."""

    limit: int = attrs.field(default=4096, kw_only=True)
    _known: OrderedDict[bytes, Again] = attrs.field(factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, head: bytes) -> bytes | None:
        """What to send now."""
        again = self._known.get(head)
        return None if again is None else again()

    def remember(self, head: bytes, again: Again) -> None:
        """How to answer this head from now on."""
        self._known.pop(head, None)
        self._known[head] = again
        if len(self._known) > self.limit:
            self._known.popitem(last=False)


class RepeatingHandler(web.RequestHandler):
    """aiohttp's own, asked only for what cannot be answered here."""

    __slots__ = ("_head", "_is_between", "_repeats")

    def __init__(self, server: web.Server, repeats: Repeats, **options: Any) -> None:
        super().__init__(server, **options)
        self._repeats = repeats
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
        """A request that cannot be read is refused like any other, and not logged: anybody can send any number."""
        if status >= SERVER_ERROR or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        refused = refusal(status, "bad_request", "this is no HTTP request that can be read here")
        refused.force_close()
        return refused

    def _is_waiting(self) -> bool:
        """Nothing is under way or queued, and the parser has no request that it began."""
        return self._waiter is not None and not self._waiter.done()

    def _send(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
            self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout


def _is_one_head(data: bytes) -> bool:
    return len(data) <= LONGEST_HEAD and data.startswith(b"GET ") and data.find(HEAD_END) == len(data) - len(HEAD_END)
