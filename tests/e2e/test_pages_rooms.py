"""A page in as many rooms as a gateway allows."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import expect

from tests.e2e.browser_page import ChatPage, Open
from tests.e2e.browser_server import UpServer
from tests.e2e.browser_wire import Wire
from tests.harness.waiting import eventually

pytestmark = pytest.mark.browser

LIMIT = 500
FRAME_LIMIT_BYTES = 16 * 1024
ROOMS = [f"room-number-{number:03}-with-a-name-as-long-as-names-may-be-{'x' * 12}" for number in range(LIMIT)]


async def _enter_all(page: ChatPage, room: str) -> None:
    rooms = json.dumps([{"name": name, "lastRead": None, "visitedAt": 0} for name in ROOMS])
    await page.context.add_init_script(f"localStorage['chatflow.rooms'] ??= '{rooms}';")
    await page.enter("ada", room)


def _joins(wire: Wire) -> list[list[dict[str, Any]]]:
    frames = [[item for item in items if item["op"] == "join"] for _, items in wire.frames]
    return [joins for joins in frames if joins]


async def _all_joined(wire: Wire) -> bool:
    return len({frame["room"] for frame in wire.heard if frame["op"] == "joined"}) == LIMIT


async def test_five_hundred_rooms_come_back_after_a_restart(chat_server: UpServer, open_page: Open) -> None:
    shown, busy, quiet = ROOMS[250], ROOMS[7], ROOMS[499]
    for room in (shown, busy, quiet):
        await chat_server.say(room, ["before"])
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await _enter_all(ada, shown)
    await ada.say("mine before")
    await expect(ada.part("room-link")).to_have_count(LIMIT)
    await eventually(lambda: _all_joined(wire))
    wire.frames.clear()
    wire.heard.clear()
    wire.closed_with = 1012
    async with restarting(chat_server):
        await ada.write("mine meanwhile")
    for room in (shown, busy):
        await chat_server.say(room, ["meanwhile", "meanwhile too"])
    wire.refusals[ROOMS[3]] = {"code": "busy", "message": "Too busy, please retry", "retryable": True}
    wire.closed_with = None
    await ada.part("retry-now").dispatch_event("click")
    await ada.connected()
    await eventually(lambda: _all_joined(wire))
    joins = _joins(wire)
    assert joins[0][0]["room"] == shown
    assert max(len(frame) for frame in joins) <= 50
    assert max(size for size, _ in wire.frames) < FRAME_LIMIT_BYTES
    assert sum(len(frame) for frame in joins) == LIMIT + 1
    assert all("since" in join for frame in joins for join in frame)
    await expect(ada.message("mine meanwhile", "stored")).to_have_count(1)
    assert await ada.texts() == ["before", "mine before", "meanwhile", "meanwhile too", "mine meanwhile"]
    await ada.verify_order()
    assert await _unread(ada) == {busy: "2"}
    await chat_server.say(quiet, ["afterwards"])
    await expect(ada.page.locator(f"[data-room='{quiet}']").get_by_test_id("unread-count")).to_have_text("1")
    await ada.verify_quiet(server_was_away=True)


@contextlib.asynccontextmanager
async def restarting(server: UpServer) -> AsyncIterator[None]:
    """Killed meanwhile; other tests use it afterwards."""
    await server.kill()
    try:
        yield
    finally:
        await server.start()


async def _unread(page: ChatPage) -> dict[str, str]:
    found: dict[str, str] = await page.page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('[data-testid=room-link].unread')].map((link) =>
          [link.dataset.room, link.querySelector('[data-testid=unread-count]').textContent]))"""
    )
    return found


async def test_at_the_limit_a_further_room_is_refused_in_words(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    await _enter_all(ada, ROOMS[0])
    await ada.part("open-sidebar").tap()
    await ada.part("room-input").fill("one-too-many")
    await ada.part("join-button").tap()
    await expect(ada.part("join-problem")).to_contain_text("500 rooms, which is the limit")
    await expect(ada.part("join-problem")).to_contain_text("leave it")
    await expect(ada.part("room-title")).to_have_text(ROOMS[0])
    await ada.part("room-input").fill("number-123")
    await expect(ada.part("room-link")).to_have_count(1)
    await expect(ada.part("room-count")).to_have_text("1 of 500 rooms")
    await ada.part("room-link").tap()
    await expect(ada.part("room-title")).to_have_text(ROOMS[123])
    await expect(ada.part("room-link")).to_have_count(LIMIT)
    await ada.page.evaluate("location.hash = '#/one-too-many'")
    await expect(ada.part("void")).to_contain_text("500 rooms, which is the limit")
    await ada.go(ROOMS[7])
    await ada.part("leave-room").tap()
    await expect(ada.part("room-link")).to_have_count(LIMIT - 1)
    await ada.go("one-too-many")
    await ada.say("there was a place")
    await expect(ada.part("room-link")).to_have_count(LIMIT)
    await ada.verify_quiet()
