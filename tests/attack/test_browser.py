"""What a page of somebody else's site can do to a server on its reader's own machine, in a real Chromium."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, async_playwright

from tests.e2e.browser_page import CHROMIUM_ARGS
from tests.e2e.browser_server import UpServer, running_server

pytestmark = pytest.mark.browser

EVIL = "evil.example"
"""A site whose owner made its name point to this machine; for rebinding, after the page was loaded."""
ARGS = [argument for argument in CHROMIUM_ARGS if not argument.startswith("--host-resolver-rules")]
ROOM, SECRET = "private", "nobody else's business"
OPEN = """([url, hello]) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  const heard = [];
  socket.onopen = () => hello === null ? resolve('open') : socket.send(hello);
  socket.onmessage = ({ data }) => resolve(data);
  socket.onclose = ({ code }) => resolve(`closed ${code}`);
})"""
READ = "(url) => fetch(url).then(async (answer) => `${answer.status} ${await answer.text()}`, (error) => error.name)"
HELLO = '{"op":"hello","userId":7,"username":"ada"}'
FRAME = '{"userId":7,"username":"ada","message":"forged","timestamp":"2026-01-01T00:00:00Z","messageType":"TEXT"}'


@pytest.fixture(scope="module")
async def server(chromium_path: str) -> AsyncIterator[UpServer]:
    async with running_server() as server:
        await server.say(ROOM, [SECRET])
        yield server


@pytest.fixture(scope="module")
async def page(chromium_path: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        arguments = [*ARGS, f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=arguments)
        yield await browser.new_page()
        await browser.close()


async def _try_everything(page: Page, server: UpServer, host: str) -> dict[str, Any]:
    """What the page that is open now gets from the server, when it calls it ``host``."""
    gateway, api = f"ws://{host}:{server.process.gateway_port}", f"http://{host}:{server.process.api_port}"
    return {
        "/ws": await page.evaluate(OPEN, [f"{gateway}/ws", HELLO]),
        "/chat": await page.evaluate(OPEN, [f"{gateway}/chat/{ROOM}", FRAME]),
        "/feed": await page.evaluate(OPEN, [f"{gateway}/feed/{ROOM}?since=0", None]),
        "messages": await page.evaluate(READ, f"{api}/api/messages/room?roomId={ROOM}"),
        "metrics": await page.evaluate(READ, f"{api}/api/metrics"),
    }


async def _count(server: UpServer) -> int:
    return len(await server.stored(ROOM))


async def test_our_own_page_gets_everything(server: UpServer, page: Page) -> None:
    """The other tests would pass as well if the attempts were wrong."""
    await page.goto(f"{server.url}/favicon.svg")
    found = await _try_everything(page, server, "127.0.0.1")
    assert "welcome" in found["/ws"]
    assert '"status":"success"' in found["/chat"]
    assert found["/feed"] == "open"
    assert found["messages"].startswith("200")
    assert SECRET in found["messages"]
    assert found["metrics"].startswith("200")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_origin_gets_nothing(server: UpServer, page: Page, host: str) -> None:
    before = await _count(server)
    async with _evil_site() as port:
        await page.goto(f"http://{EVIL}:{port}/")
        found = await _try_everything(page, server, host)
        assert await page.evaluate("origin") == f"http://{EVIL}:{port}"
    assert found == {
        "/ws": "closed 1006",
        "/chat": "closed 1006",
        "/feed": "closed 1006",
        "messages": "TypeError",
        "metrics": "TypeError",
    }
    assert await _count(server) == before


async def test_a_name_that_was_rebound_to_this_machine_gets_nothing(server: UpServer, page: Page) -> None:
    """To the browser it is one origin with the server: only ``Host`` tells."""
    before = await _count(server)
    home = await page.goto(f"http://{EVIL}:{server.process.api_port}/")
    assert home is not None
    assert home.status == 421
    assert "Content-Security-Policy" not in await home.all_headers()
    found = await _try_everything(page, server, EVIL)
    assert await page.evaluate("origin") == f"http://{EVIL}:{server.process.api_port}"
    assert {path: answer[:11] for path, answer in found.items() if "/" in path} == dict.fromkeys(
        ("/ws", "/chat", "/feed"), "closed 1006"
    )
    assert SECRET not in found["messages"]
    assert [found[what][:4] for what in ("messages", "metrics")] == ["421 ", "421 "]
    assert await _count(server) == before


@contextlib.asynccontextmanager
async def _evil_site() -> AsyncIterator[int]:
    """A web server that gives an empty page, whatever it is called and asked for."""
    app = web.Application()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>win a prize</title>", content_type="text/html")

    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
