"""What waits to be sent outlives the tab and the browser, belongs to who wrote it, and is sent by one tab."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.async_api import BrowserContext, Dialog, Playwright, expect

from tests.e2e.browser_page import CHROMIUM_ARGS, PLAIN_HOST, ChatPage, Open
from tests.e2e.browser_server import UpServer
from tests.e2e.browser_wire import Wire
from tests.harness.waiting import eventually

pytestmark = pytest.mark.browser

KEPT_WORDS = "wait here, even if you close this page"
SET_IDENTITY = "(identity) => localStorage.setItem('chatflow.identity', JSON.stringify(identity))"
IDENTITY = {"userId": 99, "username": "ada"}
STORE = """([local, session]) => {
  for (const [key, value] of Object.entries(local)) localStorage.setItem(key, JSON.stringify(value));
  for (const [key, value] of Object.entries(session)) sessionStorage.setItem(key, JSON.stringify(value));
}"""
GET_IDENTITY = "() => JSON.parse(localStorage.getItem('chatflow.identity'))"
COUNT_KEPT = """() => new Promise((resolve, reject) => {
  const opening = indexedDB.open("chatflow");
  opening.onerror = reject;
  opening.onsuccess = () => {
    const counting = opening.result.transaction("outbox").objectStore("outbox").count();
    counting.onerror = reject;
    counting.onsuccess = () => { opening.result.close(); resolve(counting.result); };
  };
})"""
BROKEN_STORAGES = {
    "forbidden": "indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); };",
    "full": "IDBObjectStore.prototype.add = () => { throw new DOMException('no', 'QuotaExceededError'); };",
    "silent": "indexedDB.open = () => ({});",
    "newer": "indexedDB.open('chatflow', 2);",
}
REASONS = {
    "forbidden": "does not let the page store",
    "full": "share of it, is full",
    "silent": "storage does not answer",
    "newer": "newer version of this page is open",
}
HOLD_TABS = """() => {
  window.heldTalk = [];
  const { set } = Object.getOwnPropertyDescriptor(BroadcastChannel.prototype, 'onmessage');
  Object.defineProperty(BroadcastChannel.prototype, 'onmessage', { set(heard) {
    set.call(this, (event) => (window.heldTalk === null ? heard(event) : window.heldTalk.push(() => heard(event))));
  } });
}"""
RELEASE_TABS = "() => { const talk = window.heldTalk; window.heldTalk = null; for (const hear of talk) hear(); }"
"""What other tabs tell is kept from a tab, and told it later."""
COUNT_SIGNS = """(userId) => {
  window.signsOfLife = 0;
  const channel = new BroadcastChannel(`chatflow.outbox.${userId}`);
  channel.onmessage = ({ data }) => (window.signsOfLife += data.alive === "yes");
}"""


async def _texts(server: UpServer, room: str) -> list[str]:
    return [row["message"] for row in await server.stored(room)]


async def _offline_tab(context: BrowserContext, server: UpServer, room: str) -> tuple[ChatPage, Wire]:
    """A tab that gets its files but no connection."""
    tab, wire = await ChatPage.tab(context, server.url), Wire(closed_with=1012)
    await wire.install(tab.page)
    await tab.page.goto(f"{server.url}/#/{room}")
    await expect(tab.part("room-title")).to_have_text(room)
    return tab, wire


async def _wait_here(page: ChatPage, count: int) -> None:
    words = f"{count} messages {KEPT_WORDS}" if count > 1 else "1 message waits here, even if you close this page"
    await expect(page.part("notice")).to_contain_text(words)


async def _nothing_kept(page: ChatPage) -> bool:
    return await page.page.evaluate(COUNT_KEPT) == 0


async def test_joining_a_twenty_first_room_drops_nothing(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    rooms = [f"many-{number}" for number in range(21)]
    await ada.enter("ada", rooms[0])
    await wire.take_away()
    for room in rooms:
        await ada.go(room)
        await ada.write(f"waits in {room}")
        await expect(ada.message(f"waits in {room}", "pending")).to_have_count(1)
        await ada.part("composer").fill(f"begun in {room}")
    await _wait_here(ada, 21)
    for room in rooms[:2]:
        await ada.go(room)
        await expect(ada.message(f"waits in {room}", "pending")).to_have_count(1)
        await expect(ada.part("composer")).to_have_value(f"begun in {room}")
    wire.closed_with = None
    await ada.part("retry-now").dispatch_event("click")
    for room in rooms:
        await eventually(lambda room=room: _has(chat_server, room, [f"waits in {room}"]))


async def _has(server: UpServer, room: str, texts: list[str]) -> bool:
    return await _texts(server, room) == texts


@pytest.fixture
async def profile(playwright: Playwright, chromium_path: str, tmp_path: Path) -> AsyncIterator["Profile"]:
    profile = Profile(playwright, chromium_path, tmp_path / "profile")
    yield profile
    await profile.close()


class Profile:
    """A browser on a directory that outlives it."""

    def __init__(self, playwright: Playwright, chromium_path: str, directory: Path) -> None:
        self._playwright = playwright
        self._chromium_path = chromium_path
        self._directory = directory
        self._context: BrowserContext | None = None

    async def start(self) -> BrowserContext:
        self._context = await self._playwright.chromium.launch_persistent_context(
            self._directory, executable_path=self._chromium_path, args=CHROMIUM_ARGS
        )
        return self._context

    async def close(self) -> None:
        if self._context is not None:
            await self._context.close()
        self._context = None

    async def kill(self) -> None:
        """SIGKILL to all of the browser."""
        assert self._context is not None
        browser = next(child for child in psutil.Process().children(recursive=True) if self._is_browser(child))
        async with self._context.expect_event("close"):
            for process in (browser, *browser.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._context = None

    def _is_browser(self, process: psutil.Process) -> bool:
        try:
            command = process.cmdline()
        except psutil.Error:
            return False
        return f"--user-data-dir={self._directory}" in command and not any("--type=" in word for word in command)


async def test_what_waits_outlives_the_browser_and_is_sent_once_in_order(
    chat_server: UpServer, profile: Profile
) -> None:
    """Written over two lives of the browser: one is closed, one is killed, and its clock is a day behind."""
    room = "outlives"
    tab = await ChatPage.tab(await profile.start(), chat_server.url)
    wire = Wire()
    await wire.install(tab.page)
    await tab.enter("ada", room)
    await wire.take_away()
    for text in ("one", "two"):
        await tab.write(text)
    await _wait_here(tab, 2)
    ids = [message["id"] for message in await tab.messages()]
    await profile.close()
    tab, wire = await _offline_tab(await profile.start(), chat_server, room)
    await _wait_here(tab, 2)
    await tab.page.evaluate("() => { const now = Date.now; Date.now = () => now() - 86_400_000; }")
    await tab.write("three")
    await _wait_here(tab, 3)
    draft = [f"chatflow.drafts.{(await tab.page.evaluate(GET_IDENTITY))['userId']}.{room}", "three"]
    await tab.page.evaluate("([key, text]) => localStorage.setItem(key, text)", draft)  # As if written late.
    await profile.kill()
    tab = await ChatPage.tab(await profile.start(), chat_server.url)
    await tab.page.goto(f"{chat_server.url}/#/{room}")
    await expect(tab.message("three", "stored")).to_have_count(1)
    assert await tab.texts() == ["one", "two", "three"]
    await expect(tab.part("composer")).to_have_value("")
    rows = await chat_server.stored(room)
    assert [row["message"] for row in rows] == ["one", "two", "three"]
    assert [row["messageId"] for row in rows[:2]] == ids
    await tab.page.reload()
    await tab.say("four")
    assert await _texts(chat_server, room) == ["one", "two", "three", "four"]


async def test_what_waits_belongs_to_who_wrote_it(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "whose")
    await wire.take_away()
    await ada.write("from ada")
    await _wait_here(ada, 1)
    await ada.part("composer").fill("ada's draft")
    await ada.go("elsewhere")
    identity = await ada.page.evaluate(GET_IDENTITY)
    await ada.page.evaluate(SET_IDENTITY, {"userId": 4711, "username": "mallory"})
    await ada.page.close()
    mallory = await ChatPage.tab(ada.context, chat_server.url)
    await mallory.page.goto(f"{chat_server.url}/#/whose")
    await mallory.connected()
    await mallory.say("from mallory")
    assert await mallory.texts() == ["from mallory"]
    await expect(mallory.part("composer")).to_have_value("")
    await mallory.page.evaluate(SET_IDENTITY, identity)
    await mallory.page.close()
    ada = await ChatPage.tab(ada.context, chat_server.url)
    await ada.page.goto(f"{chat_server.url}/#/whose")
    await expect(ada.message("from ada", "stored")).to_have_count(1)
    await expect(ada.part("composer")).to_have_value("ada's draft")
    rows = await chat_server.stored("whose")
    assert [(row["message"], row["username"]) for row in rows] == [("from mallory", "mallory"), ("from ada", "ada")]


async def test_one_of_two_tabs_sends_and_the_other_takes_over(chat_server: UpServer, open_page: Open) -> None:
    room = "two-tabs"
    first, wire = await open_page(chat_server), Wire()
    await wire.install(first.page)
    await first.enter("ada", room)
    await wire.take_away()
    second, second_wire = await _offline_tab(first.context, chat_server, room)
    await first.write("from the first")
    await second.write("from the second")
    for page in (first, second):
        await expect(page.part("message")).to_have_count(2)
        await _wait_here(page, 2)
    wire.closed_with = second_wire.closed_with = None
    for page in (first, second):
        await page.part("retry-now").dispatch_event("click")
    for page in (first, second):
        await expect(page.message("from the second", "stored")).to_have_count(1)
        await expect(page.part("message")).to_have_count(2)
    sent = {"from the first": 0, "from the second": 0}
    for text in sent:
        assert len(wire.sent_ids(text) + second_wire.sent_ids(text)) == 1
    assert sorted(await _texts(chat_server, room)) == sorted(sent)

    gone, here = ((first, wire), (second, second_wire))[:: 1 if wire.sent_ids("from the first") else -1]
    await gone[1].take_away()
    await gone[0].write("over the other tab")
    await expect(here[0].message("over the other tab", "stored")).to_have_count(1)
    await expect(gone[0].message("over the other tab", "acknowledged")).to_have_count(1)
    gone[1].closed_with = None
    await gone[0].part("retry-now").dispatch_event("click")
    await expect(gone[0].message("over the other tab", "stored")).to_have_count(1)

    sender, other = here, gone
    sender[1].is_deaf = True
    await other[0].write("handed over")
    await eventually(lambda: _was_sent(sender[1], "handed over"))
    assert other[1].sent_ids("handed over") == []
    await sender[0].page.close()
    await expect(other[0].message("handed over", "stored")).to_have_count(1)
    await other[0].say("and on")
    assert other[1].sent_ids("handed over") == sender[1].sent_ids("handed over")
    assert (await _texts(chat_server, room))[2:] == ["over the other tab", "handed over", "and on"]


async def test_a_tab_takes_over_from_one_that_hangs(chat_server: UpServer, open_page: Open) -> None:
    room = "hung"
    hung, hung_wire = await open_page(chat_server), Wire()
    await hung_wire.install(hung.page)
    await hung.page.add_init_script(f"({HOLD_TABS})()")
    await hung.enter("ada", room)
    waiting, wire = await ChatPage.tab(hung.context, chat_server.url), Wire()
    await wire.install(waiting.page)
    await waiting.page.clock.install()
    await waiting.page.goto(f"{chat_server.url}/#/{room}")
    await waiting.connected()
    await hung.page.evaluate(RELEASE_TABS)
    await waiting.page.evaluate(COUNT_SIGNS, (await waiting.page.evaluate(GET_IDENTITY))["userId"])
    hung_wire.is_deaf = True
    await hung.write("in flight")
    await eventually(lambda: _was_sent(hung_wire, "in flight"))
    await waiting.write("waits for the other")
    await expect(waiting.message("waits for the other", "pending")).to_have_count(1)
    assert wire.sent_ids("waits for the other") == []
    await eventually(lambda: waiting.page.evaluate("signsOfLife > 0"))
    for pause_ms in (6_000, 1_000):
        await waiting.page.clock.fast_forward(pause_ms)
    await expect(waiting.part("notice")).to_be_hidden()
    await hung.page.evaluate("window.heldTalk = []")
    for _ in range(2):
        await waiting.page.clock.fast_forward(6_000)
    await expect(waiting.part("notice")).to_contain_text("Another tab is sending; it does not answer. 2 messages wait")
    await waiting.part("retry-now").dispatch_event("click")
    await expect(waiting.message("waits for the other", "stored")).to_have_count(1)
    await expect(waiting.part("notice")).to_be_hidden()
    hung_wire.is_deaf = False
    await hung.page.evaluate(RELEASE_TABS)
    for page in (hung, waiting):
        await expect(page.message("waits for the other", "stored")).to_have_count(1)
        await expect(page.part("message")).to_have_count(2)
        assert await page.texts() == ["in flight", "waits for the other"]
    await hung.say("awake again")
    assert wire.sent_ids("awake again") != []
    assert await _texts(chat_server, room) == ["in flight", "waits for the other", "awake again"]


async def _was_sent(wire: Wire, text: str) -> bool:
    return wire.sent_ids(text) != []


async def test_without_a_secure_context_every_tab_sends_and_each_message_is_stored_once(
    chat_server: UpServer, open_page: Open
) -> None:
    plain_url = f"http://{PLAIN_HOST}:{chat_server.process.api_port}"
    first, wire = await open_page(chat_server), Wire()
    first.url = plain_url
    await wire.install(first.page)
    await first.enter("ada", "plain")
    assert await first.page.evaluate("isSecureContext || navigator.locks !== undefined") is False
    await wire.take_away()
    await first.write("closed before it was sent")
    await _wait_here(first, 1)
    await first.page.close()
    second, third = [await ChatPage.tab(first.context, plain_url) for _ in range(2)]
    for page in (second, third):
        await page.page.goto(f"{plain_url}/#/plain")
    for page in (second, third):
        await expect(page.message("closed before it was sent", "stored")).to_have_count(1)
    await second.say("live")
    await expect(third.message("live", "stored")).to_have_count(1)
    for page in (second, third):
        await expect(page.part("message")).to_have_count(2)
    assert await _texts(chat_server, "plain") == ["closed before it was sent", "live"]


@pytest.mark.parametrize("host", ["127.0.0.1", PLAIN_HOST])
async def test_a_message_that_comes_before_another_tab_tells_of_it_is_shown_as_stored(
    chat_server: UpServer, open_page: Open, host: str
) -> None:
    """The server may be faster than the browser's own channel between two tabs, with locks and without."""
    url, room = f"http://{host}:{chat_server.process.api_port}", f"late-word-{host}"
    writer = await open_page(chat_server)
    writer.url = url
    await writer.enter("ada", room)
    reader, wire = await ChatPage.tab(writer.context, url), Wire()
    await wire.install(reader.page)
    await reader.page.add_init_script(f"({HOLD_TABS})()")
    await reader.page.goto(f"{url}/#/{room}")
    await reader.say("here too")
    await writer.say("live")
    await expect(reader.message("live", "stored")).to_have_count(1)
    await reader.page.evaluate(RELEASE_TABS)
    await reader.say("behind what was told")
    assert [(message["text"], message["state"]) for message in await reader.messages()] == [
        (text, "stored") for text in ("here too", "live", "behind what was told")
    ]
    assert wire.sent_ids("live") == []


@pytest.mark.parametrize("how", BROKEN_STORAGES)
async def test_a_storage_that_fails_is_told_and_the_tab_asks_before_it_closes(
    chat_server: UpServer, open_page: Open, how: str
) -> None:
    ada, wire, asked = await open_page(chat_server), Wire(), []
    await wire.install(ada.page)
    await ada.page.add_init_script(BROKEN_STORAGES[how])
    await ada.enter("ada", f"broken-{how}")
    await wire.take_away()
    await ada.write("only here")
    await expect(ada.part("notice")).to_contain_text("1 unsent message is only in this tab: keep it open")
    await expect(ada.part("notice")).to_contain_text(REASONS[how])

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    ada.page.on("dialog", stay)
    await ada.page.close(run_before_unload=True)
    await eventually(lambda: _is_true(asked))
    assert asked == ["beforeunload"]
    wire.closed_with = None
    await ada.part("retry-now").dispatch_event("click")
    await expect(ada.message("only here", "stored")).to_have_count(1)
    await expect(ada.part("notice")).to_be_hidden()
    assert await _texts(chat_server, f"broken-{how}") == ["only here"]


async def _is_true(value: object) -> bool:
    return bool(value)


async def test_a_final_refusal_keeps_the_text_to_be_edited(chat_server: UpServer, open_page: Open) -> None:
    ada, wire = await open_page(chat_server), Wire()
    await wire.install(ada.page)
    await ada.enter("ada", "final")
    for code in ("conflict", "invalid_message"):
        wire.refusals[code] = {"code": code, "message": f"{code}: not like this", "retryable": False}
        await ada.write(code)
    await ada.say("others go on")
    await ada.page.reload()
    for code in ("conflict", "invalid_message"):
        failed = ada.message(code, "failed")
        await expect(failed.get_by_test_id("message-reason")).to_contain_text(f"{code}: not like this")
        await expect(failed.get_by_test_id("retry")).to_have_count(0)
    await ada.part("composer").fill("and a draft")
    await ada.message("conflict", "failed").get_by_test_id("edit").click()
    await expect(ada.part("composer")).to_have_value("conflict\nand a draft")
    await ada.say("right")
    await ada.message("invalid_message", "failed").get_by_test_id("discard").click()
    await eventually(lambda: _nothing_kept(ada))  # a page that is left at once keeps what it was about to delete
    await ada.page.reload()
    await expect(ada.message("right", "stored")).to_have_count(1)
    await expect(ada.part("message")).to_have_count(2)
    assert await _texts(chat_server, "final") == ["others go on", "right"]


async def test_a_full_outbox_refuses_and_leaves_the_text_where_it_is(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    wire = Wire(closed_with=1012)
    await wire.install(ada.page)
    await ada.page.goto(f"{chat_server.url}/favicon.svg")
    await ada.page.evaluate(STORE, [{"chatflow.identity": IDENTITY}, {"chatflow.outbox.full": _old_entries(200)}])
    await ada.page.goto(f"{chat_server.url}/#/full")
    await expect(ada.part("message")).to_have_count(200)
    await ada.write("one too many")
    await expect(ada.part("toast")).to_contain_text("Too many messages are waiting")
    await expect(ada.part("composer")).to_have_value("one too many")
    await expect(ada.part("message")).to_have_count(200)


def _old_entries(count: int) -> list[dict[str, Any]]:
    """As earlier versions kept them."""
    return [
        {
            "id": f"01900000-0000-7000-8000-{number:012}",
            "text": f"of old {number}",
            "at": "2026-01-01T00:00:00.000Z",
            "state": "pending",
            "reason": None,
        }
        for number in range(count)
    ]


async def test_what_earlier_versions_kept_is_taken_over(chat_server: UpServer, open_page: Open) -> None:
    ada = await open_page(chat_server)
    old = _old_entries(2)
    local = {
        "chatflow.identity": IDENTITY,
        "chatflow.rooms": [{"name": "legacy", "lastRead": None, "visitedAt": 1}],
        "chatflow.draft.legacy": "a draft of old",
    }
    await ada.page.goto(f"{chat_server.url}/favicon.svg")
    await ada.page.evaluate(STORE, [local, {"chatflow.outbox.legacy": old}])
    await ada.page.goto(chat_server.url)
    await expect(ada.message("of old 1", "stored")).to_have_count(1)
    await expect(ada.part("composer")).to_have_value("a draft of old")
    await eventually(lambda: _nothing_old(ada))
    await ada.page.reload()
    await expect(ada.part("composer")).to_have_value("a draft of old")
    assert [row["messageId"] for row in await chat_server.stored("legacy")] == [entry["id"] for entry in old]


async def _nothing_old(page: ChatPage) -> bool:
    keys = await page.page.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
    return not any(key.startswith(("chatflow.draft.", "chatflow.outbox.")) for key in keys)
