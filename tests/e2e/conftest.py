"""A browser, a server for it, and the people in front of it."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Playwright, async_playwright

from tests.e2e.browser_page import CHROMIUM_ARGS, PLAIN_HOST, ChatPage, Open
from tests.e2e.browser_server import UpServer, running_server


@pytest.fixture(scope="session")
async def playwright(chromium_path: str) -> AsyncIterator[Playwright]:
    async with async_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
async def browser(playwright: Playwright, chromium_path: str) -> AsyncIterator[Browser]:
    browser = await playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_ARGS)
    yield browser
    await browser.close()


@pytest.fixture(scope="session")
async def chat_server(chromium_path: str) -> AsyncIterator[UpServer]:
    """One for all tests that leave it running as they found it: each works in rooms of its own."""
    async with running_server(CHATFLOW_ALLOWED_HOSTS=PLAIN_HOST) as server:
        yield server


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """A page in a context of its own: another person on another machine."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(server: UpServer, **options: object) -> ChatPage:
            page = await ChatPage.open(browser, server.url, **options)
            stack.push_async_callback(page.context.close)
            return page

        yield open_one
