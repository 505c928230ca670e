"""The chat page as a person uses it, and as its test sees it."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Locator, Page, expect

CHROMIUM_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP plain.test 127.0.0.1",
]
PLAIN_HOST = "plain.test"
"""A name of this machine that is no loopback name, so that its pages are in no secure context."""
expect.set_options(timeout=15_000)

UNREACHABLE = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INTERNET_DISCONNECTED")
"""What the browser itself reports when a server is away: expected where the test takes it away."""

READ_MESSAGES = """() => [...document.querySelectorAll('[data-testid=message]')].map((row) => ({
  id: row.dataset.id,
  seq: row.dataset.seq === undefined ? null : Number(row.dataset.seq),
  state: row.dataset.state,
  own: row.classList.contains('own'),
  name: row.querySelector('.name')?.textContent ?? '',
  text: row.querySelector('.text').textContent,
}))"""
CATCH_VIOLATIONS = """
  window.__violations = [];
  addEventListener('securitypolicyviolation', (event) =>
    window.__violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""
HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  Object.defineProperty(document, 'visibilityState', { value: hidden ? 'hidden' : 'visible', configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@attrs.define
class ChatPage:
    """One browser context with one chat page; ``complaints`` collects whatever the console or the page reported."""

    url: str
    context: BrowserContext
    page: Page
    complaints: list[str]

    @classmethod
    async def open(cls, browser: Browser, url: str, **context_options: Any) -> "ChatPage":
        context = await browser.new_context(**context_options)
        await context.add_init_script(CATCH_VIOLATIONS)
        return await cls.tab(context, url)

    @classmethod
    async def tab(cls, context: BrowserContext, url: str) -> "ChatPage":
        """Another tab of a browser: it shares what the browser has stored."""
        page = await context.new_page()
        complaints: list[str] = []

        def on_console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                complaints.append(f"{message.type}: {message.text}")

        def on_error(error: Error) -> None:
            complaints.append(f"uncaught: {error}")

        page.on("console", on_console)
        page.on("pageerror", on_error)
        return cls(url, context, page, complaints)

    def part(self, testid: str) -> Locator:
        return self.page.get_by_test_id(testid)

    async def enter(self, name: str, room: str) -> None:
        """A first visit through a shared link."""
        await self.page.goto(f"{self.url}/#/{room}")
        await self.part("name-input").fill(name)
        await self.part("join-button").click()
        await self.connected()

    async def go(self, room: str) -> None:
        await self.page.evaluate("(room) => { location.hash = `#/${room}`; }", room)
        await expect(self.part("room-title")).to_have_text(room)

    async def connected(self) -> None:
        await expect(self.part("connection-state")).to_have_attribute("data-state", "connected", timeout=20_000)

    async def write(self, text: str) -> None:
        await self.part("composer").fill(text)
        await self.part("composer").press("Enter")

    def message(self, text: str, state: str | None = None) -> Locator:
        state_part = "" if state is None else f'[data-state="{state}"]'
        return self.page.locator(f"[data-testid=message]{state_part}").filter(
            has=self.page.get_by_text(text, exact=True)
        )

    async def say(self, text: str) -> None:
        """Write, and wait until the message has its place in the room."""
        await self.write(text)
        await expect(self.message(text, "stored")).to_have_count(1)

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.page.evaluate(READ_MESSAGES)
        return found

    async def texts(self) -> list[str]:
        return [message["text"] for message in await self.messages()]

    async def scroll_to(self, top: int) -> None:
        await self.part("timeline").evaluate("(element, top) => { element.scrollTop = top; }", top)

    async def distance_to_end(self) -> float:
        """Pixels between what is shown and the end of the timeline."""
        far: float = await self.part("timeline").evaluate("(e) => e.scrollHeight - e.clientHeight - e.scrollTop")
        return far

    async def pretend_hidden(self, hidden: bool) -> None:
        """A headless browser shows every tab, so the page is only told that it is hidden."""
        await self.page.evaluate(HIDE, hidden)

    async def verify_order(self) -> None:
        """What is stored stands in the order of seq, without a hole or a double."""
        seqs = [message["seq"] for message in await self.messages() if message["seq"] is not None]
        assert seqs == list(range(min(seqs, default=0), min(seqs, default=0) + len(seqs)))

    async def verify_quiet(self, *, server_was_away: bool = False) -> None:
        """The console is empty and the content policy was never hit."""
        excused = UNREACHABLE if server_was_away else ()
        assert [line for line in self.complaints if not any(words in line for words in excused)] == []
        assert await self.page.evaluate("window.__violations") == []


Open = Callable[..., Awaitable[ChatPage]]
"""Opens a page of a server in a context of its own: ``await open_page(server, **context_options)``."""
