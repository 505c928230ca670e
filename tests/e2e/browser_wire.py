"""The wire between a page and its gateway, held in the hand of a test: frames can be kept back, answered, or cut."""

from typing import Any

import attrs
import orjson
from playwright.async_api import Page, WebSocketRoute


@attrs.define(eq=False)
class Wire:
    """Every WebSocket of one page; what is not asked for passes through untouched.

    Attributes:
        held: operations of the server that are kept back until `release`.
        refusals: texts whose next sending, rooms whose next join, and ``""`` for the next hello, is answered with this
            error instead of reaching the server.
        sent: what the page sent, in order, refused or not.
        frames: the same as it was framed, with the number of bytes of each frame.
        heard: what the server sent, in order, kept back or not.
        is_deaf: nothing that the page sends reaches the server.
        closed_with: when set, new connections are closed at once with this code.
        doubling: messages reach the page twice.
        swallow: this many messages do not reach the page at all.
    """

    held: set[str] = attrs.field(factory=set)
    refusals: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    sent: list[dict[str, Any]] = attrs.field(factory=list)
    frames: list[tuple[int, list[dict[str, Any]]]] = attrs.field(factory=list)
    heard: list[dict[str, Any]] = attrs.field(factory=list)
    is_deaf: bool = False
    closed_with: int | None = None
    doubling: bool = False
    swallow: int = 0
    _kept: list[dict[str, Any]] = attrs.field(factory=list)
    _page_end: WebSocketRoute | None = None

    async def install(self, page: Page) -> None:
        """Before the page is opened."""
        await page.route_web_socket("**/ws", lambda route: self._opened(route))  # noqa: PLW0108  # methods get marked

    def release(self) -> None:
        """Let go of what was kept back, and keep nothing from now on."""
        kept, self._kept = self._kept, []
        self.held = set()
        if kept and self._page_end is not None:
            self._page_end.send(orjson.dumps(kept).decode())

    async def take_away(self, code: int = 1012) -> None:
        """Cut the connection and let no other one come about."""
        self.closed_with = code
        await self.cut(code)

    async def cut(self, code: int) -> None:
        """Close the connection under the page."""
        assert self._page_end is not None
        self._kept = []
        await self._page_end.close(code=code, reason="cut by a test")

    def sent_ids(self, text: str) -> list[str]:
        """The ids that this text was sent with, one for each try."""
        return [frame["id"] for frame in self.sent if frame["op"] == "send" and frame["text"] == text]

    async def _opened(self, page_end: WebSocketRoute) -> None:
        if self.closed_with is not None:
            await page_end.close(code=self.closed_with, reason="refused by a test")
            return
        server_end = page_end.connect_to_server()
        self._page_end = page_end
        page_end.on_message(lambda frame: self._from_page(page_end, server_end, frame))
        server_end.on_message(lambda frame: self._from_server(page_end, frame))

    def _from_page(self, page_end: WebSocketRoute, server_end: WebSocketRoute, frame: str | bytes) -> None:
        items = _items(frame)
        self.frames.append((len(frame), items))
        self.sent += items
        if self.is_deaf:
            return
        passing: list[dict[str, Any]] = []
        for item in items:
            refusal = self.refusals.pop(item.get("text", item.get("room", "")), None)
            if refusal is None:
                passing.append(item)
            else:
                page_end.send(orjson.dumps({"op": "error", "ref": item.get("ref"), **refusal}).decode())
        if passing == items:
            server_end.send(frame)
        elif passing:
            server_end.send(orjson.dumps(passing).decode())

    def _from_server(self, page_end: WebSocketRoute, frame: str | bytes) -> None:
        passing: list[dict[str, Any]] = []
        for item in _items(frame):
            self.heard.append(item)
            if item["op"] == "message" and self.swallow > 0:
                self.swallow -= 1
                continue
            times = 2 if item["op"] == "message" and self.doubling else 1
            (self._kept if item["op"] in self.held else passing).extend([item] * times)
        if passing:
            page_end.send(orjson.dumps(passing).decode())


def _items(frame: str | bytes) -> list[dict[str, Any]]:
    value = orjson.loads(frame)
    return value if isinstance(value, list) else [value]
